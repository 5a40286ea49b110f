//! Everything outside the guest: packages, kernels, QEMU, the plan of boots, the report.
//!
//! The host machine is left as it was: nothing is installed, no service is started, and all that
//! is downloaded or built lies in one cache folder.

pub mod apt;
pub mod birds;
pub mod bpf;
pub mod checks;
pub mod cpio;
pub mod equipment;
pub mod kernel;
pub mod machine;
pub mod native;
pub mod object;
pub mod place;
pub mod plan;
pub mod report;
pub mod root;
pub mod run;
pub mod sources;
pub mod vm;
pub mod workspace;
