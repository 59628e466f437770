//! Images decoded in a process apart, where another attempt at the shard has brought no part: should a decoder's native code kill
//! the process, it is this one, and the row that did it is known.
//!
//! The other process is `quern-worker decode`. It is sent one image at a time (row and length as little-endian u64, then
//! the bytes) and answers each with a byte, whether or not it is an image. What it decodes is thrown away: the worker
//! decodes again what has proved harmless.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use quern_capfilt::{RowOutcome, Stage};
use quern_corpus::images;
use quern_corpus::reader::RawRow;
use quern_recipes::ImageLimits;

use crate::faults::Script;

/// How long the decoding of one image may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The process apart, which is started when it is first needed and again when it has died.
pub struct Apart {
    limits: ImageLimits,
    script: Script,
    running: Option<Running>,
}

struct Running {
    child: Child,
    images: ChildStdin,
    answers: Receiver<()>,
}

impl Apart {
    /// Nothing started yet.
    pub fn new(limits: ImageLimits, script: Script) -> Self {
        Apart { limits, script, running: None }
    }

    /// Has the row's image decoded apart.
    ///
    /// # Errors
    /// What becomes of a row whose image kills the decoder, or keeps it busy for more than a minute.
    pub fn try_image(&mut self, row: &RawRow) -> Result<(), RowOutcome> {
        let Some(image) = &row.image else { return Ok(()) };
        let refused = |reason: &str, detail: String| Err(RowOutcome::quarantined(Stage::Decode, reason, detail));
        let mut running = match self.running.take().map_or_else(|| self.start(), Ok) {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(%error, "images can't be decoded apart; they are decoded here");
                return Ok(());
            }
        };
        // A process that has died while it is written to is found out by its answer.
        let _ = send(&mut running.images, row.id.row, image);
        match running.answers.recv_timeout(PATIENCE) {
            Ok(()) => {
                self.running = Some(running);
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => {
                running.end();
                refused("decoder_timeout", format!("the image was not decoded within {} s", PATIENCE.as_secs()))
            }
            Err(RecvTimeoutError::Disconnected) => {
                let status = running.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                refused("decoder_crash", format!("the image kills the process that decodes it ({status})"))
            }
        }
    }

    fn start(&self) -> io::Result<Running> {
        let limits = serde_json::to_string(&self.limits).expect("limits are plain data");
        let mut child = Command::new(std::env::current_exe()?)
            .args(["decode", "--limits", &limits])
            .args(self.script.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let images = child.stdin.take().expect("it is piped");
        let mut stdout = child.stdout.take().expect("it is piped");
        let (sender, answers) = channel();
        thread::Builder::new().name("decoder's answers".into()).spawn(move || {
            let mut byte = [0];
            while stdout.read_exact(&mut byte).is_ok() && sender.send(()).is_ok() {}
        })?;
        Ok(Running { child, images, answers })
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.running.take().into_iter().for_each(Running::end);
    }
}

impl Running {
    fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(images: &mut ChildStdin, row: u64, image: &[u8]) -> io::Result<()> {
    images.write_all(&row.to_le_bytes())?;
    images.write_all(&(image.len() as u64).to_le_bytes())?;
    images.write_all(image)?;
    images.flush()
}

/// The process apart: decodes what it is sent until there is no more.
///
/// # Errors
/// When it can't read or answer.
pub fn decode(limits: &ImageLimits, script: &Script) -> io::Result<()> {
    let (mut images, mut answers) = (io::stdin().lock(), io::stdout().lock());
    let mut number = [0; 8];
    while images.read_exact(&mut number).is_ok() {
        let row = u64::from_le_bytes(number);
        images.read_exact(&mut number)?;
        let mut image = Vec::new();
        images.by_ref().take(u64::from_le_bytes(number)).read_to_end(&mut image)?;
        script.decoding(row);
        let _ = images::decode(&image, limits);
        answers.write_all(b".")?;
        answers.flush()?;
    }
    Ok(())
}
