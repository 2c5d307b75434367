//! What can go wrong with a command: the message, what to do about it, and the exit code.

use std::path::{Path, PathBuf};
use std::{fmt, io};
use vellum::Error;
use vellum::files::FileError;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    Store(Error),
    File(FileError),
    /// The command line is at fault in a way that its parser cannot see.
    Usage(String),
    /// Anything else that can be said in a sentence.
    Message(String),
    /// An index is not sound, and the problems have been told.
    Problems {
        /// In all indexes.
        count: u64,
        /// The first index that has any.
        index: String,
    },
    /// redb finds its pages damaged, and the problems have been told.
    Pages(u64),
    /// Two stores are not the same, and how has been told.
    Different,
    /// Stopped by the user; the text says what is left of the work.
    Cancelled(String),
    /// A bulk load that stopped half-way, and why.
    HalfLoaded {
        cause: Box<Failure>,
        /// Rows that are committed.
        rows: u64,
        /// The file that was being loaded.
        data: PathBuf,
    },
    /// Standard output is gone or full.
    Output(io::Error),
}

/// What the store is like after a transaction was cancelled.
const UNCHANGED: &str = "the store is as it was";

impl Failure {
    pub(crate) fn message(text: impl Into<String>) -> Failure {
        Failure::Message(text.into())
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Problems { .. } | Failure::Pages(_) | Failure::Different => 3,
            Failure::Cancelled(_) => 130,
            Failure::HalfLoaded { cause, .. } => cause.exit_code(),
            // Whoever closed the pipe has read enough.
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            _ => 1,
        }
    }

    /// What to do about it, given the store and the index that the command named.
    pub(crate) fn advice(&self, target: Option<(&Path, Option<&str>)>) -> Option<String> {
        match self {
            Failure::Store(error) => {
                let (store, index) = target?;
                store_advice(error, &quoted_path(store), &quoted(index.unwrap_or("INDEX")))
            }
            Failure::File(error) => file_advice(error),
            Failure::Problems { index, .. } => {
                let (store, index) = (quoted_path(target?.0), quoted(index));
                Some(format!("mend it with `vellum repair {store} {index}`, or go back to a backup"))
            }
            Failure::Pages(_) => {
                let store = quoted_path(target?.0);
                Some(format!(
                    "make a new store of it with `vellum salvage {store} NEW`, or go back to a backup"
                ))
            }
            Failure::HalfLoaded { cause, data, .. } => {
                let (store, index) = target?;
                let first = cause.advice(target).map_or(String::new(), |advice| advice + "; ");
                let (store, index) = (quoted_path(store), quoted(index.unwrap_or("INDEX")));
                Some(first + &resume_or_discard(&store, &index, &quoted_path(data)))
            }
            _ => None,
        }
    }
}

fn store_advice(error: &Error, store: &str, index: &str) -> Option<String> {
    Some(match error {
        Error::NotFound { .. } => format!(
            "create it with `vellum build {store} {index} --spec IVF2048,Flat --metric l2 --data FILE.npy`"
        ),
        Error::UnknownIndex { .. } => {
            format!(
                "`vellum info {store}` lists what is there; `vellum build` and `vellum create` make an index"
            )
        }
        Error::IndexExists { .. } => {
            format!("add to it with `vellum add {store} {index} --data FILE.npy`, or choose another name")
        }
        Error::Exists { .. } => "choose another file; vellum replaces none".into(),
        Error::Unfinished { .. } => return Some(resume_or_discard(store, index, "FILE.npy")),
        Error::Locked => {
            "wait for the other process to end, or work on a copy made by `vellum backup`".into()
        }
        Error::WriterLeftOpen { .. } | Error::Corrupt { .. } => format!(
            "see what is wrong with `vellum verify {store}` and mend it with `vellum repair {store} {index}`, \
             make a new store of what can be read with `vellum salvage {store} NEW`, or go back to a backup"
        ),
        Error::Foreign { .. } => "is this the file that you meant?".into(),
        Error::NewerVersion { .. } => "use a newer vellum".into(),
        Error::NotCalibrated { .. } => format!("measure it with `vellum calibrate {store} {index}`"),
        Error::Untrained { .. } => format!("train it with `vellum train {store} {index} --data FILE.npy`"),
        Error::TooFewRows { .. } => "train on more rows, or make an index of fewer lists".into(),
        Error::UnknownId { .. } => {
            format!("see the ids with `vellum export {store} {index} --out VECTORS.npy --out-ids IDS.npy`")
        }
        Error::NotFinite { .. } | Error::TooLong { .. } | Error::OutOfDomain { .. } => {
            "replace or leave out such rows".into()
        }
        Error::ZeroVector { .. } => "leave out such rows, or use the metric l2 or ip".into(),
        Error::Io(e) => match e.kind() {
            io::ErrorKind::NotFound => format!("is there a folder to put {store} into?"),
            io::ErrorKind::PermissionDenied => format!("reading and writing {store} must be permitted"),
            io::ErrorKind::StorageFull => "make room; what was committed is safe".into(),
            _ => format!("it happened to {store}; what was committed is safe"),
        },
        _ => return None,
    })
}

fn file_advice(error: &FileError) -> Option<String> {
    Some(match error {
        FileError::UnknownFormat { .. } => "save it with numpy.save".into(),
        FileError::Length { .. } => "was it copied or written completely?".into(),
        FileError::Element { .. } => "convert it with numpy: array.astype(...), array.reshape(...)".into(),
        _ => return None,
    })
}

/// What to do about an unfinished bulk load; the arguments are quoted.
fn resume_or_discard(store: &str, index: &str, data: &str) -> String {
    format!(
        "resume with `vellum add {store} {index} --data {data} --resume` (the same files as before), \
         or discard with `vellum add {store} {index} --discard`"
    )
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// A word as it can be typed into a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Store(error) => write!(f, "{error}"),
            Failure::File(error) => write!(f, "{error}"),
            Failure::Usage(text) | Failure::Message(text) => f.write_str(text),
            Failure::Problems { count: 1, .. } => write!(f, "1 problem"),
            Failure::Problems { count, .. } => write!(f, "{count} problems"),
            Failure::Pages(count) => write!(f, "redb's pages: {count} problems"),
            Failure::Different => f.write_str("the stores are not the same"),
            Failure::Cancelled(left) => write!(f, "cancelled: {left}"),
            Failure::HalfLoaded { cause, rows, .. } => match **cause {
                Failure::Cancelled(_) => write!(f, "cancelled: {rows} rows are loaded"),
                _ => write!(f, "{cause} ({rows} rows are loaded)"),
            },
            Failure::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Cancelled => Failure::Cancelled(UNCHANGED.into()),
            error => Failure::Store(error),
        }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Cancelled => Failure::Cancelled(UNCHANGED.into()),
            error => Failure::File(error),
        }
    }
}
