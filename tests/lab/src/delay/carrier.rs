//! The thread that serves one link of a delay box.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};

use super::line::{Line, Tally};
use super::{End, Link, Shape};
use crate::sys::{self, Frames};

/// A running link: its thread, and the way to speak to it.
#[derive(Debug)]
pub(crate) struct Carrier {
    desk: Arc<Mutex<Desk>>,
    bell: UnixStream,
}

/// What the thread and the orders share. The thread looks at it after the bell and after each batch.
#[derive(Debug)]
struct Desk {
    reshape: Option<[Shape; 2]>,
    tally: [Tally; 2],
}

struct Worker {
    taps: [File; 2],
    lines: [Line; 2],
    desk: Arc<Mutex<Desk>>,
    bell: UnixStream,
    begun: Instant,
}

impl Carrier {
    /// Opens both devices of `link` and starts carrying.
    pub(crate) fn start(link: &Link, seed: u64) -> Result<Self> {
        let taps = [open(&link.a)?, open(&link.b)?];
        admit(&taps, [link.a_to_b, link.b_to_a])?;
        let lines = [Line::new(link.a_to_b, seed), Line::new(link.b_to_a, !seed)];
        let desk = Arc::new(Mutex::new(Desk { reshape: None, tally: [Tally::default(); 2] }));
        let (bell, heard) = UnixStream::pair().context("make a bell")?;
        heard.set_nonblocking(true)?;
        let worker = Worker { taps, lines, desk: Arc::clone(&desk), bell: heard, begun: Instant::now() };
        std::thread::Builder::new().name("link".to_owned()).spawn(move || worker.run()).context("start a link")?;
        Ok(Self { desk, bell })
    }

    /// Changes both directions; the thread obeys before it takes its next frame.
    pub(crate) fn reshape(&self, shapes: [Shape; 2]) -> Result<()> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner).reshape = Some(shapes);
        (&self.bell).write_all(&[0]).context("ring the bell")
    }

    /// What both directions did, as of the thread's last batch.
    pub(crate) fn tally(&self) -> [Tally; 2] {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner).tally
    }
}

impl Worker {
    fn run(mut self) {
        // A coarse timer makes the link late by 50 microseconds, which is no reason to stop.
        drop(sys::sharpen_timers());
        let mut buffer = vec![0; FRAME_LIMIT];
        loop {
            self.visit_desk();
            let busy = self.take_frames(&mut buffer);
            self.deliver();
            if busy {
                continue;
            }
            let due = self.lines.iter().filter_map(Line::next_due).min();
            let pause = due.map(|due| due.saturating_sub(self.begun.elapsed()));
            let sources = [self.taps[0].as_fd(), self.taps[1].as_fd(), self.bell.as_fd()];
            if sys::wait_readable(&sources, pause).is_err() {
                return;
            }
        }
    }

    fn visit_desk(&mut self) {
        let mut rung = [0; 16];
        while matches!((&self.bell).read(&mut rung), Ok(1..)) {}
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some([forth, back]) = desk.reshape.take() {
            // A refusal leaves frames as they were, which a line carries just as well.
            drop(admit(&self.taps, [forth, back]));
            self.lines[0].reshape(forth);
            self.lines[1].reshape(back);
        }
        desk.tally = [self.lines[0].tally(), self.lines[1].tally()];
    }

    /// Reads a bounded batch from each side and answers whether more may be waiting.
    fn take_frames(&mut self, buffer: &mut [u8]) -> bool {
        let mut busy = false;
        for (tap, line) in self.taps.iter().zip(&mut self.lines) {
            for turn in 1..=BATCH {
                let mut tap = tap;
                let Ok(length) = tap.read(buffer) else { break };
                line.push(self.begun.elapsed(), &buffer[..length], length.saturating_sub(sys::VIRTIO_HEADER));
                busy |= turn == BATCH;
            }
        }
        busy
    }

    fn deliver(&mut self) {
        let [forth, back] = &mut self.lines;
        let [a, b] = &self.taps;
        for (line, mut tap) in [(forth, b), (back, a)] {
            let now = self.begun.elapsed();
            // A device that is down refuses frames, as an unplugged cable would.
            while line.pop(now, |frame| drop(tap.write(frame))) {}
        }
    }
}

/// Takes trains of segments where nothing is decided per frame: the line then carries some gigabits, and segments
/// leave as close together as they came either way.
fn admit(taps: &[File; 2], shapes: [Shape; 2]) -> std::io::Result<()> {
    for (tap, shape) in taps.iter().zip(shapes) {
        let plain = shape == Shape::delay(shape.delay);
        sys::set_frames(tap, if plain { Frames::Trains } else { Frames::Wire })?;
    }
    Ok(())
}

fn open(end: &End) -> Result<File> {
    let namespace = File::open(&end.namespace).with_context(|| format!("open {}", end.namespace.display()))?;
    // A thread of its own, so that the caller stays where it is.
    let opened = std::thread::scope(|scope| {
        let enter = || sys::enter_network_namespace(namespace.as_fd()).and_then(|()| sys::open_tap(&end.interface));
        scope.spawn(enter).join()
    });
    let opened = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    opened.with_context(|| format!("make the TAP device {} in {}", end.interface, end.namespace.display()))
}

/// Room for a frame of any MTU that a TAP device accepts.
const FRAME_LIMIT: usize = sys::VIRTIO_HEADER + 14 + 65_536;

/// Frames taken from one side before the other side and the clock get their turn.
const BATCH: usize = 32;
