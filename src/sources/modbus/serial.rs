//! A serial port as a stream of bytes: opened raw, for this program alone, and never as a controlling terminal.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{ControlModes, InputModes, OptionalActions, QueueSelector, SpecialCodeIndex};
use rustix::{fs, termios};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::model::Parity;
use crate::sources::Serial;

#[derive(Debug)]
pub struct Port {
    fd: AsyncFd<OwnedFd>,
}

impl Port {
    /// Opens the port and sets it up. What an earlier program left in its queues is thrown away.
    pub async fn open(serial: &Serial) -> io::Result<Self> {
        let to_open = serial.clone();
        let fd = once(&serial.device, move || opened(&to_open)).await?;
        // SAFETY: an `OwnedFd` is open until it is dropped and always says the same number, and no other takes its place
        // here: `fd` is never lent out to be changed.
        #[allow(unsafe_code)]
        let fd = unsafe { AsyncFd::register(fd) }?;
        Ok(Self { fd })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Closing would wait for bytes that a port which is stuck never sends. One that is gone has no queues.
        termios::tcflush(self.fd.get_ref(), QueueSelector::IOFlush).ok();
    }
}

/// The ports that are being opened.
static OPENING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A port is being opened for as long as this lives.
struct Opening(PathBuf);

impl Opening {
    fn begin(device: &Path) -> Option<Self> {
        let is_first = ports().insert(device.to_owned());
        is_first.then(|| Self(device.to_owned()))
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        ports().remove(&self.0);
    }
}

/// Nothing that could fail is done while the lock is held.
fn ports() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    OPENING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a port away from the thread that serves all lines, as an adapter that hangs can keep its driver waiting. Who
/// waits for it may give up, but the attempt goes on; were another one begun beside it, threads would pile up.
async fn once<T: Send + 'static>(
    device: &Path,
    open: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let Some(opening) = Opening::begin(device) else {
        let text = "its driver still hangs in the last attempt to open it: unplug the adapter and plug it in again";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    };
    let attempt = tokio::task::spawn_blocking(move || {
        let opened = open();
        drop(opening);
        opened
    });
    attempt.await.map_err(io::Error::other)?
}

fn opened(serial: &Serial) -> io::Result<OwnedFd> {
    // Without O_NONBLOCK, opening waits for a carrier that an RS-485 adapter does not have.
    let how = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = fs::open(&serial.device, how, Mode::empty()).map_err(|errno| told(errno, &serial.device))?;
    if !termios::isatty(&fd) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no serial port"));
    }
    // Keeps out the programs that ask for such a lock, those of root as well; the mark below keeps out all but root.
    fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).map_err(|errno| told(errno, &serial.device))?;
    // A pseudo terminal would keep the mark after this program was killed, as its other end stays open.
    if !PSEUDO_TERMINALS.contains(&fs::major(fs::fstat(&fd)?.st_rdev)) {
        termios::ioctl_tiocexcl(&fd)?;
    }
    set_up(&fd, serial)?;
    termios::tcflush(&fd, QueueSelector::IOFlush)?;
    Ok(fd)
}

/// The numbers of the drivers of pseudo terminals (Linux, Documentation/admin-guide/devices.txt).
const PSEUDO_TERMINALS: std::ops::RangeInclusive<u32> = 136..=143;

fn set_up(fd: &OwnedFd, serial: &Serial) -> io::Result<()> {
    let mut settings = termios::tcgetattr(fd)?;
    settings.make_raw();
    // A byte with the wrong parity is handed on: the check sum of its frame finds it.
    settings.input_modes -= InputModes::INPCK | InputModes::IXOFF | InputModes::IXANY;
    let modes = &mut settings.control_modes;
    // HUPCL would take the power from adapters that live on the control lines when the port is closed.
    modes.remove(ControlModes::CRTSCTS | ControlModes::HUPCL | ControlModes::PARODD | ControlModes::CMSPAR);
    modes.insert(ControlModes::CREAD | ControlModes::CLOCAL);
    modes.set(ControlModes::PARENB, serial.parity != Parity::None);
    modes.set(ControlModes::PARODD, serial.parity == Parity::Odd);
    modes.set(ControlModes::CSTOPB, serial.stop_bits == 2);
    // A read then says 0 only where the port has hung up.
    settings.special_codes[SpecialCodeIndex::VMIN] = 1;
    settings.special_codes[SpecialCodeIndex::VTIME] = 0;
    settings.set_speed(serial.baud)?;
    termios::tcsetattr(fd, OptionalActions::Now, &settings)?;
    // A driver that cannot do what it is told sets what is nearest to it, and says no word.
    let set = termios::tcgetattr(fd)?.output_speed();
    if set.abs_diff(serial.baud) > serial.baud / 30 {
        let text = format!("this port cannot do {} Bd, and took {set} Bd", serial.baud);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

/// What a person can do about a port that does not open.
fn told(errno: Errno, device: &Path) -> io::Error {
    let remedy = match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => "there is no such port: is the adapter plugged in?".to_owned(),
        Errno::ACCESS | Errno::PERM => format!(
            "no permission: let the user of this program into the group of {} (`dialout` on most systems)",
            device.display()
        ),
        Errno::BUSY | Errno::WOULDBLOCK => "another program has this port open".to_owned(),
        _ => return errno.into(),
    };
    io::Error::new(io::Error::from(errno).kind(), remedy)
}

/// What a person can do about an open port that is of no more use.
fn lost(errno: Errno) -> io::Error {
    match errno {
        Errno::IO | Errno::NODEV | Errno::NXIO => {
            let text = "the port is gone: was the adapter unplugged?";
            io::Error::new(io::ErrorKind::BrokenPipe, text)
        }
        _ => errno.into(),
    }
}

impl AsyncRead for Port {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.fd.poll_read_ready(cx))?;
            let read = ready.try_io(|fd| rustix::io::read(fd, out.initialize_unfilled()).map_err(lost));
            match read {
                // Some drivers say that nothing more comes, and some that the port is gone.
                Ok(Ok(0)) => return Poll::Ready(Err(lost(Errno::NODEV))),
                Ok(came) => {
                    out.advance(came?);
                    return Poll::Ready(Ok(()));
                }
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.fd.poll_write_ready(cx))?;
            match ready.try_io(|fd| rustix::io::write(fd, bytes).map_err(lost)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    /// The driver sends what it has taken without being asked.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn a_driver_that_hangs_is_asked_once() {
        let device = Path::new("/dev/ttyHANGS");
        let (let_go, held) = std::sync::mpsc::channel::<()>();
        let hanging = once(device, move || Ok(held.recv().is_ok()));
        assert!(tokio::time::timeout(Duration::from_millis(10), hanging).await.is_err());
        let why = once(device, || Ok(true)).await.unwrap_err().to_string();
        assert!(why.starts_with("its driver still hangs in the last attempt to open it"), "{why}");
        assert!(once(Path::new("/dev/ttyOTHER"), || Ok(true)).await.unwrap());
        let_go.send(()).unwrap();
        while once(device, || Ok(true)).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_port_is_set_up_as_told_and_hands_every_byte_on_as_it_is() {
        let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&far).unwrap();
        unlockpt(&far).unwrap();
        let device = OsString::from_vec(ptsname(&far, Vec::new()).unwrap().into_bytes()).into();
        let serial = Serial { device, baud: 19_200, parity: Parity::None, stop_bits: 2 };
        let mut port = Port::open(&serial).await.unwrap();
        let set = termios::tcgetattr(port.fd.get_ref()).unwrap();
        assert_eq!((set.output_speed(), set.input_speed()), (19_200, 19_200));
        assert!(set.control_modes.contains(ControlModes::CS8 | ControlModes::CSTOPB | ControlModes::CLOCAL));
        assert!(!set.control_modes.intersects(ControlModes::HUPCL | ControlModes::CRTSCTS));
        assert!(!set.local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
        let every: Vec<u8> = (0..=255).collect();
        let mut came = [0; 256];
        port.write_all(&every).await.unwrap();
        let mut have = 0;
        while have < every.len() {
            have += rustix::io::read(&far, &mut came[have..]).unwrap();
        }
        assert_eq!(came[..], every);
        rustix::io::write(&far, &every).unwrap();
        came.fill(0);
        port.read_exact(&mut came).await.unwrap();
        assert_eq!(came[..], every);
        assert_eq!(opened(&serial).unwrap_err().to_string(), "another program has this port open");
        drop(far);
        let why = port.read(&mut came).await.unwrap_err().to_string();
        assert_eq!(why, "the port is gone: was the adapter unplugged?");
    }
}
