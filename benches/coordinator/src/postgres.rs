//! A PostgreSQL server of the bench's own: Debian's binaries, a fresh cluster, a socket in its folder.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio_postgres::NoTls;

/// Whom the server runs as when the bench runs as root, which PostgreSQL refuses.
const USER: &str = "postgres";

/// Where Debian's packages put each version's binaries.
const DEBIAN: &str = "/usr/lib/postgresql";

/// What differs from the defaults: room, and no checkpoint in the middle. Commits are durable.
const SETTINGS: &str = "-c listen_addresses='' -c max_connections=200 -c shared_buffers=512MB -c max_wal_size=8GB \
                        -c checkpoint_timeout=30min -c synchronous_commit=on -c fsync=on";

/// A server at work. It stops when this is dropped.
pub struct Server {
    folder: PathBuf,
    binaries: PathBuf,
}

impl Server {
    /// Makes a cluster in `folder` and starts its server.
    ///
    /// # Errors
    /// When PostgreSQL isn't installed, or its server doesn't start.
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir(folder)?;
        if is_root() {
            let user = numeric(USER)?;
            chown(folder, Some(user), None)?;
        }
        let server = Server { folder: folder.into(), binaries: binaries()? };
        let folder = folder.display();
        server.run("initdb", &format!("-D {folder}/data -A trust -U bench -E UTF8 --locale=C"))?;
        server.run("pg_ctl", &format!("start -w -D {folder}/data -l {folder}/log -o \"{SETTINGS} -k {folder}\""))?;
        Ok(server)
    }

    /// `connections` connections, for whoever needs one next.
    ///
    /// # Errors
    /// When the server doesn't take them.
    pub fn pool(&self, connections: usize) -> anyhow::Result<Pool> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.folder).user("bench").dbname("postgres");
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(config, NoTls, recycling);
        Ok(Pool::builder(manager).max_size(connections).runtime(Runtime::Tokio1).build()?)
    }

    fn run(&self, program: &str, arguments: &str) -> anyhow::Result<()> {
        let line = format!("{}/{program} {arguments}", self.binaries.display());
        let mut command = match is_root() {
            true => Command::new("runuser"),
            false => Command::new("sh"),
        };
        if is_root() {
            command.args(["-u", USER, "--", "sh"]);
        }
        // The server keeps standard output open: what it says is in its log.
        let status = command.args(["-c", &format!("{line} >/dev/null 2>&1")]).current_dir(&self.folder).status()?;
        if status.success() {
            return Ok(());
        }
        let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        bail!("`{line}` failed: {status}\n{log}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It was started, or there is nothing to stop.
        let _ = self.run("pg_ctl", &format!("stop -w -m immediate -D {}/data", self.folder.display()));
    }
}

fn is_root() -> bool {
    // SAFETY: the call takes nothing and can't fail.
    unsafe { libc::geteuid() == 0 }
}

fn numeric(user: &str) -> anyhow::Result<u32> {
    let output = Command::new("id").args(["-u", user]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.trim()
        .parse()
        .with_context(|| format!("there is no user {user}: scripts/setup.sh --bench installs PostgreSQL"))
}

/// The newest version's binaries.
fn binaries() -> anyhow::Result<PathBuf> {
    let missing = || format!("no PostgreSQL under {DEBIAN}: scripts/setup.sh --bench installs it");
    let mut versions = Vec::new();
    for entry in std::fs::read_dir(DEBIAN).with_context(missing)? {
        let entry = entry?;
        if let Ok(version) = entry.file_name().to_string_lossy().parse::<u32>()
            && entry.path().join("bin/initdb").exists()
        {
            versions.push((version, entry.path().join("bin")));
        }
    }
    versions.into_iter().max().map(|(_, path)| path).with_context(missing)
}
