//! What differs between two object files. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use object::{Object, ObjectSection};

/// What a section holds, by its name and its place among those of this name.
type Sections<'a> = BTreeMap<(String, usize), &'a [u8]>;

/// What is different in `built` from `committed`, a line each; nothing if they are the same bytes.
pub fn differences(committed: &[u8], built: &[u8]) -> Result<Vec<String>> {
    if committed == built {
        return Ok(Vec::new());
    }
    let old = sections(committed).context("the committed object")?;
    let new = sections(built).context("the object that was built")?;
    let mut lines = Vec::new();
    for (key @ (name, _), was) in &old {
        match new.get(key) {
            None => lines.push(format!("section {name} is no longer there")),
            Some(is) if is != was => lines.push(format!("section {name}: {}", change(was, is))),
            Some(_) => {}
        }
    }
    let added = new.keys().filter(|key| !old.contains_key(key));
    lines.extend(added.map(|(name, _)| format!("section {name} is new")));
    if lines.is_empty() {
        lines.push("the headers".to_owned());
    }
    Ok(lines)
}

fn sections(bytes: &[u8]) -> Result<Sections<'_>> {
    let file = object::File::parse(bytes).context("is no object file")?;
    let mut sections = Sections::new();
    for section in file.sections() {
        let name = section.name().context("has a section without a name")?.to_owned();
        let data = section.data().with_context(|| format!("has no data of {name}"))?;
        let count = (0..).find(|count| !sections.contains_key(&(name.clone(), *count)));
        sections.insert((name, count.unwrap_or_default()), data);
    }
    Ok(sections)
}

fn change(was: &[u8], is: &[u8]) -> String {
    if was.len() != is.len() {
        return format!("{} bytes now, {} in the committed object", is.len(), was.len());
    }
    let mut differ = was.iter().zip(is).enumerate().filter(|(_, (was, is))| was != is);
    let first = differ.next().map_or(0, |(at, _)| at);
    format!("{} of {} bytes differ, the first at {first:#x}", differ.count() + 1, was.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &[u8] = include_bytes!("../../../ebpf-xdp/object/wgrouted.bpf.o");

    #[test]
    fn the_same_bytes_differ_in_nothing() {
        assert!(differences(OBJECT, OBJECT).expect("an object").is_empty());
    }

    #[test]
    fn one_bit_of_a_program_is_found() {
        for name in [".text", "classifier", "xdp", "xdp.frags", ".BTF", ".symtab"] {
            let file = object::File::parse(OBJECT).expect("an object");
            let section = file.section_by_name(name).expect(name);
            let (start, size) = section.file_range().expect("bytes");
            let mut changed = OBJECT.to_vec();
            changed[usize::try_from(start + size / 2).expect("small")] ^= 1;
            let lines = differences(OBJECT, &changed).expect("an object");
            let wanted = format!("section {name}: 1 of {size} bytes differ, the first at ");
            assert!(matches!(&lines[..], [line] if line.starts_with(&wanted)), "{lines:?}");
        }
    }

    #[test]
    fn a_change_outside_of_sections_is_found() {
        let mut changed = OBJECT.to_vec();
        // `e_flags` (elf(5)).
        changed[0x30] ^= 1;
        assert_eq!(differences(OBJECT, &changed).expect("an object"), ["the headers"]);
    }

    #[test]
    fn no_object_is_an_error() {
        assert!(differences(OBJECT, b"text").is_err());
    }
}
