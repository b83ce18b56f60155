//! The `-o` list of `mount`: the words that mount(8), fstab and users write there.
//!
//! Every word is known or refused. Values never reach another program unescaped, so that no value
//! can smuggle in a further option.

use fuser::MountOption;

/// What a list of options asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `ro`: as `--read-only`.
    pub read_only: bool,
    /// `allow_other`: as `--allow-other`.
    pub allow_other: bool,
    /// `fsname=NAME`: shown as the source in the mount table.
    pub fsname: Option<String>,
    /// Words that the kernel understands by itself.
    pub(super) kernel: Vec<MountOption>,
}

/// A word that is not known or not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Nothing is known by this name.
    #[error("mount option {0:?} is not known; see vortex-fs mount --help")]
    Unknown(String),
    /// The value holds a character that would be taken for a separator.
    #[error("mount option {0}: a value may not hold commas, backslashes or control characters")]
    BadValue(String),
    /// Two words contradict each other.
    #[error("mount options {0} and {1} contradict each other")]
    Conflict(String, String),
}

impl Options {
    /// Reads comma-separated lists; an empty word means nothing.
    ///
    /// # Errors
    /// The first word that is not known, not allowed or contradicts another.
    pub fn parse<S: AsRef<str>>(lists: &[S]) -> Result<Options, OptionError> {
        let mut options = Options::default();
        let mut seen: Vec<&str> = Vec::new();
        for word in lists
            .iter()
            .flat_map(|list| list.as_ref().split(','))
            .filter(|w| !w.is_empty())
        {
            if let Some(earlier) = opposite(word).filter(|o| seen.contains(o)) {
                return Err(OptionError::Conflict(earlier.to_string(), word.to_string()));
            }
            seen.push(word);
            options.take(word)?;
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) -> Result<(), OptionError> {
        match word {
            "ro" => self.read_only = true,
            "allow_other" => self.allow_other = true,
            "nodev" => self.kernel.push(MountOption::NoDev),
            "dev" => self.kernel.push(MountOption::Dev),
            "nosuid" => self.kernel.push(MountOption::NoSuid),
            "suid" => self.kernel.push(MountOption::Suid),
            "noexec" => self.kernel.push(MountOption::NoExec),
            "noatime" => self.kernel.push(MountOption::NoAtime),
            "sync" => self.kernel.push(MountOption::Sync),
            "dirsync" => self.kernel.push(MountOption::DirSync),
            // The default, or of no concern to a file system.
            "rw"
            | "exec"
            | "atime"
            | "async"
            | "defaults"
            | "relatime"
            | "default_permissions"
            | "auto"
            | "noauto"
            | "user"
            | "nouser"
            | "users"
            | "nofail"
            | "_netdev" => {}
            w if w.starts_with("x-") || w.starts_with("comment=") => {}
            w => match w.split_once('=') {
                Some(("fsname", value)) => {
                    if value.is_empty() || value.chars().any(|c| c == '\\' || c.is_control()) {
                        return Err(OptionError::BadValue(w.to_string()));
                    }
                    self.fsname = Some(value.to_string());
                }
                _ => return Err(OptionError::Unknown(w.to_string())),
            },
        }
        Ok(())
    }
}

/// The word that contradicts `word`.
fn opposite(word: &str) -> Option<&'static str> {
    const PAIRS: [(&str, &str); 6] = [
        ("ro", "rw"),
        ("dev", "nodev"),
        ("suid", "nosuid"),
        ("exec", "noexec"),
        ("atime", "noatime"),
        ("sync", "async"),
    ];
    PAIRS.iter().find_map(|&(a, b)| {
        if word == a {
            Some(b)
        } else if word == b {
            Some(a)
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_fstab_are_understood() {
        let options = Options::parse(&[
            "rw,noauto,x-systemd.automount,_netdev",
            "allow_other,fsname=archive,nosuid,",
        ]);
        let options = options.expect("all known");
        assert!(options.allow_other && !options.read_only);
        assert_eq!(options.fsname.as_deref(), Some("archive"));
        assert_eq!(options.kernel, [MountOption::NoSuid]);
        assert!(Options::parse(&["ro"]).expect("known").read_only);
    }

    #[test]
    fn unknown_words_and_smuggled_ones_are_refused() {
        assert!(matches!(
            Options::parse(&["allow_root"]),
            Err(OptionError::Unknown(_))
        ));
        assert!(matches!(
            Options::parse(&["uid=0"]),
            Err(OptionError::Unknown(_))
        ));
        assert!(matches!(
            Options::parse(&["fsname=a\\,suid"]),
            Err(OptionError::BadValue(_))
        ));
        assert!(matches!(
            Options::parse(&["fsname="]),
            Err(OptionError::BadValue(_))
        ));
        assert!(matches!(
            Options::parse(&["ro", "rw"]),
            Err(OptionError::Conflict(..))
        ));
    }
}
