//! Pseudo terminals in the place of serial ports and their adapters.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};

/// The end of the line that a program opens as its port. It is gone when this is dropped, as if unplugged.
pub struct Pty {
    pub port: PathBuf,
    /// The other end, as what comes out of the port and what goes into it.
    pub out: Receiver,
    pub into: Sender,
    /// Held open, so that the other end does not hang up while no program has the port open.
    _port: OwnedFd,
}

impl Pty {
    pub fn new() -> Self {
        let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&end).unwrap();
        unlockpt(&end).unwrap();
        rustix::io::ioctl_fionbio(&end, true).unwrap();
        let port = PathBuf::from(OsString::from_vec(ptsname(&end, Vec::new()).unwrap().into_bytes()));
        let held = open(&port, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        // Until a program sets it up, a terminal would say again whatever it hears.
        let mut settings = tcgetattr(&held).unwrap();
        settings.make_raw();
        tcsetattr(&held, OptionalActions::Now, &settings).unwrap();
        let out = Receiver::from_owned_fd_unchecked(end.try_clone().unwrap()).unwrap();
        Self { port, out, into: Sender::from_owned_fd_unchecked(end).unwrap(), _port: held }
    }

    /// Gives the port a name that stays, as the system does for an adapter; the name it had before leads here now.
    pub fn named(self, name: &Path) -> Self {
        std::fs::remove_file(name).ok();
        symlink(&self.port, name).unwrap();
        self
    }
}

/// Two ports joined by a cable, until it is dropped.
pub async fn cable(one: Pty, other: Pty) {
    let Pty { mut out, mut into, _port: _one, .. } = one;
    let Pty { out: mut other_out, into: mut other_into, _port: _other, .. } = other;
    let there = async {
        let mut bytes = [0; 512];
        while let Ok(came @ 1..) = out.read(&mut bytes).await {
            other_into.write_all(&bytes[..came]).await.unwrap();
        }
    };
    let back = async {
        let mut bytes = [0; 512];
        while let Ok(came @ 1..) = other_out.read(&mut bytes).await {
            into.write_all(&bytes[..came]).await.unwrap();
        }
    };
    tokio::join!(there, back);
}
