//! The boundary to SQLite: its VFS and file methods over [`Disk`]s. The only unsafe code of the simulation.
//!
//! One VFS is registered for the process; a path `/{storage}/{name}` says which disk a file is on. A database has one
//! connection at a time, so locks are always had, and the memory that connections share is the connection's own.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use rusqlite::ffi;

use crate::disk::{Chance, Disk, Failure};

type Shared = Arc<Mutex<Disk>>;

static NEXT: AtomicU64 = AtomicU64::new(0);
static STORAGES: Mutex<Option<HashMap<u64, Shared>>> = Mutex::new(None);

/// The disk of one process. What is opened on it has to be closed before it is dropped, or fails from then on.
#[derive(Debug)]
pub struct Storage {
    id: u64,
    disk: Shared,
}

impl Default for Storage {
    fn default() -> Self {
        Self::new()
    }
}

impl Storage {
    /// The VFS' name.
    pub const VFS: &str = "quern-sim";

    /// An empty disk.
    pub fn new() -> Self {
        Self::of(Disk::default())
    }

    fn of(disk: Disk) -> Self {
        register();
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let disk = Arc::new(Mutex::new(disk));
        lock(&STORAGES).get_or_insert_default().insert(id, disk.clone());
        Storage { id, disk }
    }

    /// The path of a file on it.
    pub fn path(&self, name: &str) -> PathBuf {
        format!("/{}/{name}", self.id).into()
    }

    /// The disk.
    pub fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.disk)
    }

    /// What the next process finds when this one is killed now. For this one nothing works any more.
    pub fn after_kill(&self) -> Storage {
        let after = self.disk().after_kill();
        Self::of(after)
    }

    /// What the next process finds when the power is cut now. For this one nothing works any more.
    pub fn after_power_cut(&self, chance: &mut dyn Chance) -> Storage {
        let after = self.disk().after_power_cut(chance);
        Self::of(after)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        lock(&STORAGES).get_or_insert_default().remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which disk a path is on, and the file's name there.
fn find(path: &CStr) -> Option<(Shared, String)> {
    let (id, name) = path.to_str().ok()?.strip_prefix('/')?.split_once('/')?;
    let disk = lock(&STORAGES).as_ref()?.get(&id.parse().ok()?)?.clone();
    Some((disk, name.into()))
}

fn code<T>(result: Result<T, Failure>, device: c_int) -> Result<T, c_int> {
    result.map_err(|failure| match failure {
        Failure::Device => device,
        Failure::Full => ffi::SQLITE_FULL,
    })
}

fn done(result: Result<(), c_int>) -> c_int {
    result.err().unwrap_or(ffi::SQLITE_OK)
}

/// An open file.
struct Handle {
    disk: Shared,
    name: String,
    /// Memory that connections to one database share: here one has it to itself.
    shared: Vec<Box<[u64]>>,
}

/// What SQLite keeps of it: its own part first.
#[repr(C)]
struct OpenFile {
    methods: *const ffi::sqlite3_io_methods,
    handle: *mut Handle,
}

/// # Safety
/// `file` is one that [`open`] opened and [`close`] has not closed.
unsafe fn handle<'a>(file: *mut ffi::sqlite3_file) -> &'a mut Handle {
    unsafe { &mut *(*file.cast::<OpenFile>()).handle }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock_file),
    xUnlock: Some(lock_file),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
            iVersion: 1,
            szOsFile: size_of::<OpenFile>() as c_int,
            mxPathname: 512,
            pNext: std::ptr::null_mut(),
            zName: c"quern-sim".as_ptr(),
            pAppData: std::ptr::null_mut(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: None,
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: the struct is never freed, and its methods are those of this file.
        let registered = unsafe { ffi::sqlite3_vfs_register(vfs, 0) };
        assert_eq!(registered, ffi::SQLITE_OK, "SQLite takes the VFS");
    });
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let file = file.cast::<OpenFile>();
    // SAFETY: SQLite hands over `szOsFile` bytes for the file; a null method table says that it is not open.
    unsafe { file.write(OpenFile { methods: std::ptr::null(), handle: std::ptr::null_mut() }) };
    if path.is_null() {
        // A temporary file: nothing of the journal needs one.
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: a path that isn't null is a C string.
    let Some((disk, name)) = find(unsafe { CStr::from_ptr(path) }) else { return ffi::SQLITE_CANTOPEN };
    if let Err(code) = code(lock(&disk).open(&name, flags & ffi::SQLITE_OPEN_CREATE != 0), ffi::SQLITE_CANTOPEN) {
        return code;
    }
    let handle = Box::into_raw(Box::new(Handle { disk, name, shared: Vec::new() }));
    // SAFETY: as above; where the flags are to go is null or SQLite's own.
    unsafe {
        file.write(OpenFile { methods: &METHODS, handle });
        if let Some(out) = flags_out.as_mut() {
            *out = flags;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, path: *const c_char, _: c_int) -> c_int {
    // SAFETY: SQLite gives a C string.
    let Some((disk, name)) = find(unsafe { CStr::from_ptr(path) }) else { return ffi::SQLITE_IOERR_DELETE };
    match code(lock(&disk).delete(&name), ffi::SQLITE_IOERR_DELETE) {
        Ok(true) => ffi::SQLITE_OK,
        Ok(false) => ffi::SQLITE_IOERR_DELETE_NOENT,
        Err(code) => code,
    }
}

unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, path: *const c_char, _: c_int, out: *mut c_int) -> c_int {
    // SAFETY: SQLite gives a C string, and a place for the answer.
    let Some((disk, name)) = find(unsafe { CStr::from_ptr(path) }) else { return ffi::SQLITE_IOERR_ACCESS };
    done(code(lock(&disk).exists(&name), ffi::SQLITE_IOERR_ACCESS).map(|exists| unsafe { *out = exists.into() }))
}

unsafe extern "C" fn full_pathname(
    _: *mut ffi::sqlite3_vfs,
    path: *const c_char,
    bytes: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: SQLite gives a C string and room for `bytes` bytes.
    unsafe {
        let path = CStr::from_ptr(path).to_bytes_with_nul();
        if path.len() > bytes as usize {
            return ffi::SQLITE_CANTOPEN;
        }
        std::ptr::copy_nonoverlapping(path.as_ptr().cast(), out, path.len());
    }
    ffi::SQLITE_OK
}

/// Always the same: it salts checksums.
unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, bytes: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite gives room for so many bytes.
    unsafe { out.write_bytes(7, bytes as usize) };
    bytes
}

unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, _: c_int) -> c_int {
    0
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite gives a place for the answer.
    unsafe { *out = 2_460_000.5 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once, and does nothing with it afterwards.
    drop(unsafe { Box::from_raw((*file.cast::<OpenFile>()).handle) });
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, into: *mut c_void, bytes: c_int, offset: i64) -> c_int {
    // SAFETY: the file is open, and there is room for so many bytes.
    let (handle, into) = unsafe { (handle(file), std::slice::from_raw_parts_mut(into.cast::<u8>(), bytes as usize)) };
    match code(lock(&handle.disk).read(&handle.name, offset as usize, into), ffi::SQLITE_IOERR_READ) {
        Ok(read) if read == into.len() => ffi::SQLITE_OK,
        Ok(read) => {
            into[read..].fill(0);
            ffi::SQLITE_IOERR_SHORT_READ
        }
        Err(code) => code,
    }
}

unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, from: *const c_void, bytes: c_int, offset: i64) -> c_int {
    // SAFETY: the file is open, and there are so many bytes.
    let (handle, from) = unsafe { (handle(file), std::slice::from_raw_parts(from.cast::<u8>(), bytes as usize)) };
    done(code(lock(&handle.disk).write(&handle.name, offset as usize, from), ffi::SQLITE_IOERR_WRITE))
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, bytes: i64) -> c_int {
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    done(code(lock(&handle.disk).resize(&handle.name, bytes as usize), ffi::SQLITE_IOERR_TRUNCATE))
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open.
    let handle = unsafe { handle(file) };
    done(code(lock(&handle.disk).sync(&handle.name), ffi::SQLITE_IOERR_FSYNC))
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: the file is open, and there is a place for the answer.
    let handle = unsafe { handle(file) };
    let size = code(lock(&handle.disk).size(&handle.name), ffi::SQLITE_IOERR_FSTAT);
    done(size.map(|size| unsafe { *out = size as i64 }))
}

unsafe extern "C" fn lock_file(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite gives a place for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    4096
}

/// What SQLite's own VFS for unix says of a disk of which it knows nothing.
unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    bytes: c_int,
    _: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: the file is open; a region stays where it is until it is unmapped or the file is closed.
    unsafe {
        let shared = &mut handle(file).shared;
        while shared.len() <= region as usize {
            shared.push(vec![0; bytes as usize / size_of::<u64>()].into());
        }
        *out = shared[region as usize].as_mut_ptr().cast();
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(_: *mut ffi::sqlite3_file, _: c_int, _: c_int, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_barrier(_: *mut ffi::sqlite3_file) {}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // SAFETY: the file is open.
    unsafe { handle(file).shared.clear() };
    ffi::SQLITE_OK
}
