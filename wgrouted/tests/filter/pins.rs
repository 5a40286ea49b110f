//! Pins that are not ours, or not what they should be.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use wgrouted::target::filter::{FilterReader, FilterTarget, KernelFilter};

use crate::lab::{DIRECTORY, Lab, WRONG, isolate, pinned, plan, run, space};

fn refusal(directory: &str) -> String {
    let message = KernelFilter::new(directory).open(&plan()).unwrap_err().message;
    println!("{message}");
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
#[ignore = "needs root"]
fn what_is_foreign_is_refused_and_left_alone() {
    let lab = Lab::new();
    drop(lab.filter(&plan()));
    let space = space().unwrap();
    let link = fs::read_dir(space.join("links")).unwrap().next();
    let link: Option<PathBuf> = link.map(|entry| entry.unwrap().path());
    let settings = space.join("g1/WGR_SETTINGS");
    let put = |target: &Path, at: &Path| {
        let _ = fs::remove_file(at);
        fs::hard_link(target, at).unwrap();
    };
    // Names.
    for at in ["stranger", "g01", "links/stranger", "g1/stranger"] {
        put(&settings, &space.join(at));
        let refused = refusal(DIRECTORY);
        assert!(refused.contains(at) && refused.contains("not the filter's"), "{refused}");
        assert!(!lab.arrives(WRONG), "what is in force stays in force");
        fs::remove_file(space.join(at)).unwrap();
    }
    // A map where a link is expected.
    let fake = space.join("links/77_xdp");
    put(&settings, &fake);
    assert!(refusal(DIRECTORY).contains("77_xdp"));
    fs::remove_file(&fake).unwrap();
    // Other maps under our names.
    let kept = space.join("g1/kept");
    for (name, other) in
        [("WGR_SETTINGS", "WGR_BUDGET"), ("WGR_PEERS", "WGR_LINKS"), ("WGR_FLOWS", "WGR_RULES")]
    {
        let at = space.join("g1").join(name);
        // The name in between is refused too, so it lies elsewhere meanwhile.
        let aside = Path::new("/sys/fs/bpf/aside");
        fs::rename(&at, aside).unwrap();
        put(&space.join("g1").join(other), &at);
        assert!(refusal(DIRECTORY).contains(name));
        fs::remove_file(&at).unwrap();
        assert!(refusal(DIRECTORY).contains(name), "missing");
        fs::rename(aside, &at).unwrap();
    }
    assert!(!kept.exists());
    // No pin at all.
    symlink("nowhere", space.join("g1/WGR_WORK")).unwrap();
    assert!(refusal(DIRECTORY).contains("WGR_WORK"));
    fs::remove_file(space.join("g1/WGR_WORK")).unwrap();
    if let Some(link) = link.filter(|link| !link.is_symlink()) {
        let wrong = space.join("links/78_xdp");
        let tcx = link.file_name().unwrap().to_str().unwrap().ends_with("_in");
        if tcx {
            put(&link, &wrong);
            assert!(refusal(DIRECTORY).contains("78_xdp"), "a tcx link is no XDP link");
            fs::remove_file(&wrong).unwrap();
        }
    }
    // Nor is anything foreign removed.
    put(&settings, &space.join("stranger"));
    let before = pinned();
    assert!(KernelFilter::new(DIRECTORY).remove().unwrap_err().message.contains("stranger"));
    assert_eq!(pinned(), before);
    fs::remove_file(space.join("stranger")).unwrap();
    let mut filter = KernelFilter::new(DIRECTORY);
    assert_eq!(filter.open(&plan()).unwrap().sources.len(), 1);
    filter.remove().unwrap();
    assert!(!Path::new(DIRECTORY).exists());
}

#[test]
#[ignore = "needs root"]
fn a_place_that_is_not_on_a_bpf_file_system_is_refused() {
    isolate();
    for directory in ["/tmp", "/tmp/wgrouted-no-such-directory/at/all", "/proc"] {
        let refused = refusal(directory);
        assert!(refused.contains("not on a BPF file system"), "{refused}");
        assert!(refused.contains("mount -t bpf"), "{refused}");
    }
    assert!(!Path::new("/tmp/wgrouted-no-such-directory").exists());
    run("umount /sys/fs/bpf");
    // Under it there may be the machine's own.
    if !run("stat -f -c %T /sys/fs/bpf").contains("bpf") {
        assert!(refusal(DIRECTORY).contains("not on a BPF file system"));
    }
}

#[test]
#[ignore = "needs root"]
fn without_privilege_it_says_what_is_missing() {
    isolate();
    // Capabilities are a thread's own.
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted] {
        caps::clear(None, set).unwrap();
    }
    assert!(refusal(DIRECTORY).contains("CAP_BPF"));
    assert!(!Path::new(DIRECTORY).exists(), "nothing is left of the attempt");
}

#[test]
#[ignore = "needs root"]
fn nothing_is_there_to_be_read_or_removed() {
    isolate();
    let message = FilterReader::open(DIRECTORY).unwrap_err().message;
    assert!(message.contains("there is no filter below"), "{message}");
    KernelFilter::new(DIRECTORY).remove().unwrap();
    let mut filter = KernelFilter::new(DIRECTORY);
    assert!(filter.dump().unwrap_err().message.contains("not open"));
    assert!(filter.apply(&[]).is_err());
    // The pins of another namespace are not ours.
    filter.open(&plan()).unwrap();
    let others = pinned();
    // SAFETY: no pointers are passed.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    assert!(FilterReader::open(DIRECTORY).is_err());
    KernelFilter::new(DIRECTORY).remove().unwrap();
    assert_eq!(pinned(), others);
}
