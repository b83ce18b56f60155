//! The file systems that are compared.

use serde::Serialize;

use crate::bench::programs::on_path;

/// A file system, as it is made and mounted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// This one; its archive lies on ext4.
    #[serde(rename = "vortex-fs")]
    Ours,
    /// The kernel's, without compression.
    Ext4,
    /// The kernel's, `compress=zstd:3`.
    Btrfs,
    /// The kernel's, zstd, with our block size.
    Squashfs,
    /// The same image through FUSE.
    Squashfuse,
    /// The kernel's, with the best compressor that `mkfs.erofs` offers.
    Erofs,
    /// A directory passed through FUSE.
    Bindfs,
}

impl System {
    /// All but ours.
    pub const PEERS: [System; 6] = [
        System::Ext4,
        System::Btrfs,
        System::Squashfs,
        System::Squashfuse,
        System::Erofs,
        System::Bindfs,
    ];

    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            System::Ours => "vortex-fs",
            System::Ext4 => "ext4",
            System::Btrfs => "btrfs",
            System::Squashfs => "squashfs",
            System::Squashfuse => "squashfuse",
            System::Erofs => "erofs",
            System::Bindfs => "bindfs",
        }
    }

    /// The programs that it needs, and the Debian packages that have them.
    fn needs(self) -> &'static [(&'static str, &'static str)] {
        match self {
            System::Ours | System::Ext4 => &[("mkfs.ext4", "e2fsprogs")],
            System::Btrfs => &[("mkfs.btrfs", "btrfs-progs")],
            System::Squashfs => &[("mksquashfs", "squashfs-tools")],
            System::Squashfuse => &[
                ("mksquashfs", "squashfs-tools"),
                ("squashfuse", "squashfuse"),
            ],
            System::Erofs => &[("mkfs.erofs", "erofs-utils")],
            System::Bindfs => &[("bindfs", "bindfs")],
        }
    }

    /// The first program that it lacks, and what to install.
    #[must_use]
    pub fn lacks(self) -> Option<String> {
        let missing = self.needs().iter().find(|(program, _)| !on_path(program));
        missing.map(|(program, package)| {
            format!("no program `{program}` on PATH; install the package {package}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_command_line_are_those_of_the_report() {
        for system in System::PEERS.into_iter().chain([System::Ours]) {
            let shown = serde_json::to_value(system).unwrap();
            assert_eq!(shown, system.name());
        }
    }
}
