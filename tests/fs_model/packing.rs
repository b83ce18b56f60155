//! Packing, unpacking, and files that were there before the archive.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use vortex_fs::codec::{self, CodecId, Encoded};
use vortex_fs::fs::Outcome;
use vortex_fs::store::{BlockSource, Encoding, KeyRun, Packing, Primer, SealOptions, seal};

use crate::ops::{From, Op, PATHS};
use crate::world::{ALIKE, Check, World, data};

/// Longer files are packed without start states: those take long.
const LONGEST_STARTED: u64 = 70_000;

impl World {
    pub(crate) fn pack(&mut self, path: usize, from: From) -> Check {
        let Ok(snapshot) = self.fs().snapshot(Path::new(PATHS[path])) else {
            return Ok(());
        };
        let linked = snapshot.links() > 1;
        let temp = self.fs().archive().temp_file().unwrap();
        let from = if snapshot.len() > LONGEST_STARTED {
            From::Nothing
        } else {
            from
        };
        let options = self.options(from);
        let sealed = seal(&snapshot, &temp, self.fs().archive().library(), &options)
            .map_err(|e| e.to_string())?;
        let outcome = self
            .fs()
            .finish_repack(snapshot, temp)
            .map_err(|e| e.to_string())?;
        let ino = self
            .real(path)
            .symlink_metadata()
            .map_err(|e| e.to_string())?
            .ino();
        self.synced(ino);
        match (outcome, linked) {
            (Outcome::Swapped, false) => {
                self.started += sealed.started;
                Ok(())
            }
            (Outcome::Changed, true) => Ok(()),
            other => Err(format!("packing: {other:?}")),
        }
    }

    fn options(&self, from: From) -> SealOptions<'static> {
        let library = self.fs().archive().library();
        let plain = SealOptions {
            block_size: 32 << 10,
            encoding: Encoding::Fresh,
            key_run: KeyRun::NONE,
            primer: None,
            jobs: 1,
            progress: None,
            cancel: None,
        };
        let primer = || {
            let id = library.primers().add(&data(9_000, ALIKE)).unwrap();
            let state = library.primed(id).unwrap();
            Primer { id, state }
        };
        match from {
            From::Nothing => plain,
            _ => SealOptions {
                block_size: 16 << 10,
                encoding: Encoding::Packed(Packing::with(Some(self.profile.clone()))),
                // Two groups in the longest file.
                key_run: KeyRun {
                    blocks: 2,
                    group: 3,
                },
                primer: (from == From::Primer).then(primer),
                ..plain
            },
        }
    }

    pub(crate) fn pack_in_place(&mut self, path: usize) -> Check {
        let Ok(snapshot) = self.fs().snapshot(Path::new(PATHS[path])) else {
            return Ok(());
        };
        if !snapshot.is_segment() {
            return Ok(());
        }
        // Often smaller than what fresh writes make.
        let encode = |data: &[u8]| Encoded {
            codec: CodecId::Zstd,
            payload: zstd::bulk::compress(data, 19).unwrap(),
            ..codec::encode_fresh(data)
        };
        self.fs()
            .repack_in_place(&snapshot, 2, &encode, &|_| {})
            .map_err(|e| e.to_string())
    }

    pub(crate) fn unpack(&mut self, path: usize) -> Check {
        let Ok(snapshot) = self.fs().snapshot(Path::new(PATHS[path])) else {
            return Ok(());
        };
        let linked = snapshot.links() > 1;
        let temp = self.fs().archive().temp_file().unwrap();
        let mut content = vec![0; snapshot.len() as usize];
        snapshot
            .read_at(&mut content, 0)
            .map_err(|e| e.to_string())?;
        temp.file().write_all_at(&content, 0).unwrap();
        let outcome = self
            .fs()
            .finish_unpack(snapshot, temp)
            .map_err(|e| e.to_string())?;
        let ino = self
            .real(path)
            .symlink_metadata()
            .map_err(|e| e.to_string())?
            .ino();
        self.synced(ino);
        match (outcome, linked) {
            (Outcome::Swapped, false) | (Outcome::Changed, true) => Ok(()),
            other => Err(format!("unpacking: {other:?}")),
        }
    }

    /// A file put into the backing directory before the archive is mounted.
    pub(crate) fn plain_file(&mut self, path: usize, len: usize, seed: u8) -> Check {
        let real = self.real(path);
        if PATHS[path].contains(".vortex") || real.symlink_metadata().is_ok() {
            return Ok(());
        }
        if !real
            .parent()
            .unwrap()
            .symlink_metadata()
            .is_ok_and(|m| m.is_dir())
        {
            return Ok(());
        }
        self.apply(&Op::Remount)?;
        let content = data(len, seed);
        for root in [self.backing.path(), self.reference.path()] {
            let path = root.join(PATHS[path]);
            fs::write(&path, &content).map_err(|e| e.to_string())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        let ino = real.symlink_metadata().unwrap().ino();
        self.history.insert(ino, vec![content]);
        Ok(())
    }
}
