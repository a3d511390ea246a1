//! The server's log file. Whoever reaches the port writes to it, with connections that fail, so it has a size.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use millrace_service::private;

/// Beyond this the log is shortened.
const BYTES_MAX: u64 = 4 << 20;
/// What of its end is kept.
const KEPT_BYTES: u64 = 256 << 10;

/// Opens the log to be written on. Every writer appends: wherever the file ends, there it goes on.
pub(super) fn open(path: &Path) -> io::Result<File> {
    shorten(path)?;
    let file = private::options().create(true).append(true).open(path)?;
    private::narrow_file(&file)?;
    Ok(file)
}

/// Cuts what came first from a log that is too long, in place: the server has it open. Lines that it writes just then may be
/// lost.
pub(super) fn shorten(path: &Path) -> io::Result<()> {
    let bytes = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if bytes <= BYTES_MAX {
        return Ok(());
    }
    let mut file = File::options().read(true).append(true).open(path)?;
    let mut kept = Vec::new();
    file.seek(SeekFrom::Start(bytes - KEPT_BYTES))?;
    io::Read::by_ref(&mut file).take(KEPT_BYTES).read_to_end(&mut kept)?;
    let line = kept.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    file.set_len(0)?;
    file.write_all(b"(what was here has been cut: the log had grown too long)\n")?;
    file.write_all(&kept[line..])
}

/// The last lines, for a message.
pub(super) fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_end_and_whoever_writes_it_goes_on_there() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("log");
        let mut server = open(&path).expect("opened");
        server.write_all(b"short\n").expect("written");
        shorten(&path).expect("looked at");
        assert_eq!(fs::read_to_string(&path).expect("read"), "short\n");
        for line in 0..BYTES_MAX / 16 {
            server.write_all(format!("line {line:10}\n").as_bytes()).expect("written");
        }
        shorten(&path).expect("shortened");
        server.write_all(b"next\n").expect("written");
        let text = fs::read_to_string(&path).expect("text without a gap");
        let last = format!("line {:10}\nnext\n", BYTES_MAX / 16 - 1);
        assert!(text.starts_with("(what was") && text.ends_with(&last) && !text.contains('\0'));
        assert!(text.len() as u64 <= KEPT_BYTES + 64);
    }
}
