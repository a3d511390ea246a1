//! Directories and files that their owner alone may read: events, keys, passwords, logs.
//!
//! A directory has mode 0700, a file 0600, whatever the umask says. What an earlier version made more widely readable is
//! narrowed when it is opened again.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Mode of directories.
pub const DIR_MODE: u32 = 0o700;
/// Mode of files.
pub const FILE_MODE: u32 = 0o600;

/// Makes a directory and those above it that are missing, and narrows one that is there. One that belongs to somebody else
/// (a volume whose owner shares it with a group) is theirs to narrow; the files in it are private all the same.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(path)?;
    match narrow(path, DIR_MODE) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

/// Narrows the files that lie in a directory, of which an earlier version may have made some.
pub fn narrow_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        match narrow(&entry.path(), FILE_MODE) {
            // Its owner has just replaced or removed it, or it is somebody else's.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Options under which a file is made with [`FILE_MODE`]. They say nothing of a file that exists: see [`narrow_file`].
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE_MODE);
    options
}

/// Makes a file, or empties one that is there.
pub fn create(path: &Path) -> io::Result<File> {
    let file = options().write(true).create(true).truncate(true).open(path)?;
    narrow_file(&file)?;
    Ok(file)
}

/// Writes a file whole and syncs it: under a name of its own first, so that a crash leaves the old one or the new one.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let mut file = create(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    // The new name, too, survives a loss of power.
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Takes group's and others' rights from an open file.
pub fn narrow_file(file: &File) -> io::Result<()> {
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    }
    Ok(())
}

fn narrow(path: &Path, mode: u32) -> io::Result<()> {
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn only_the_owner_may_read_what_is_made() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        create_dir_all(&dir).unwrap();
        assert_eq!((mode(&dir), mode(dir.parent().unwrap())), (0o700, 0o700));
        let file = dir.join("file");
        write(&file, b"secret").unwrap();
        assert_eq!((mode(&file), fs::read(&file).unwrap()), (0o600, b"secret".to_vec()));
    }

    #[test]
    fn what_was_open_to_others_is_narrowed() {
        let root = tempfile::tempdir().unwrap();
        let (dir, file) = (root.path().join("dir"), root.path().join("file"));
        fs::create_dir(&dir).unwrap();
        fs::write(&file, "old").unwrap();
        for path in [&dir, &file] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        let inner = dir.join("inner");
        fs::write(&inner, "old").unwrap();
        fs::set_permissions(&inner, Permissions::from_mode(0o644)).unwrap();
        create_dir_all(&dir).unwrap();
        create(&file).unwrap();
        narrow_files(&dir).unwrap();
        assert_eq!((mode(&dir), mode(&file), mode(&inner)), (0o700, 0o600, 0o600));
    }
}
