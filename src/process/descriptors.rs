//! File descriptors: their limit, and errors that it causes.

use std::{error::Error, io};

use rustix::process::{Resource, getrlimit, setrlimit};

/// `EMFILE`: this process has no descriptor left.
const PROCESS_FULL: i32 = 24;
/// `ENFILE`: the machine has none left.
const MACHINE_FULL: i32 = 23;

/// How many descriptors the process may have open; none if there is no limit.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the soft limit to the hard one, which any process may do.
///
/// # Errors
/// If the system refuses it.
pub fn raise() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(())
}

/// How many descriptors the process has open; none if the system does not say.
pub fn open() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    // One of them is open for reading this folder.
    Some(entries.count().saturating_sub(1) as u64)
}

/// What to say where an error, or what caused it, is that there is no descriptor left; none if it is another error.
pub fn exhausted(error: &(dyn Error + 'static)) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    let code = causes.find_map(|cause| cause.downcast_ref().and_then(code_of))?;
    match code {
        PROCESS_FULL => Some(match limit() {
            Some(limit) => {
                format!("the hub has no file descriptor left (its limit is {limit}): raise LimitNOFILE or ulimit -n")
            }
            None => "the hub has no file descriptor left: raise LimitNOFILE or ulimit -n".to_owned(),
        }),
        MACHINE_FULL => Some("this machine has no file descriptor left (fs.file-max)".to_owned()),
        _ => None,
    }
}

/// An I/O error may hold another one, which is none of its sources.
fn code_of(error: &io::Error) -> Option<i32> {
    error
        .raw_os_error()
        .or_else(|| error.get_ref()?.downcast_ref().and_then(code_of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_found_at_any_depth() {
        let full = || io::Error::from_raw_os_error(PROCESS_FULL);
        assert!(exhausted(&full()).is_some_and(|text| text.contains("LimitNOFILE")));
        assert!(exhausted(&io::Error::other(full())).is_some());
        let machine = io::Error::from_raw_os_error(MACHINE_FULL);
        assert!(exhausted(&machine).is_some_and(|text| text.contains("machine")));
        assert_eq!(exhausted(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
        assert_eq!(exhausted(&io::Error::from_raw_os_error(111)), None);
    }

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        raise().unwrap();
        assert_eq!(limit(), getrlimit(Resource::Nofile).maximum);
        assert!(open().is_some_and(|open| open > 2));
    }
}
