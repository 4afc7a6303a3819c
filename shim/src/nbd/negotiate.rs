//! The handshake: what the client wants to know, until it has chosen the export or goes away.
#![forbid(unsafe_code)]

use super::inbox::{read_exact, Gone};
use super::wire::*;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// A handshake lasts no longer.
const MAX_DURATION: Duration = Duration::from_secs(10);
/// Options longer than this are read and refused.
const MAX_OPTION_BYTES: u32 = 8 << 10;
/// Options longer than this end the session.
const MAX_SKIPPED_BYTES: u32 = 1 << 20;

/// What is told about the export.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Description<'a> {
    pub(crate) name: &'a str,
    pub(crate) len_bytes: u64,
    pub(crate) read_only: bool,
}

struct Handshake<'a> {
    stream: &'a UnixStream,
    stop: &'a AtomicBool,
    deadline: Instant,
    export: Description<'a>,
    no_zeroes: bool,
}

/// What follows an option.
enum Next {
    Option,
    Transmission,
    End,
}

/// Talks to a client that has just connected; true if it goes on to the transmission.
pub(crate) fn negotiate(stream: &UnixStream, stop: &AtomicBool, export: Description<'_>) -> Result<bool, Gone> {
    let deadline = Instant::now() + MAX_DURATION;
    let mut handshake = Handshake { stream, stop, deadline, export, no_zeroes: false };
    let mut greeting = Vec::new();
    greeting.extend(GREETING_MAGIC.to_be_bytes());
    greeting.extend(OPTION_MAGIC.to_be_bytes());
    greeting.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    handshake.send(&greeting)?;
    let flags = u32::from_be_bytes(handshake.read()?);
    if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Err(Gone::Nonsense);
    }
    handshake.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
    loop {
        match handshake.option()? {
            Next::Option => {}
            Next::Transmission => return Ok(true),
            Next::End => return Ok(false),
        }
    }
}

impl Description<'_> {
    fn flags(&self) -> u16 {
        HAS_FLAGS | if self.read_only { READ_ONLY } else { SEND_FLUSH | SEND_TRIM }
    }

    /// Whether the export answers to this name: to its own, and to none at all.
    fn is_called(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }

    fn size_and_flags(&self) -> Vec<u8> {
        let mut bytes = self.len_bytes.to_be_bytes().to_vec();
        bytes.extend(self.flags().to_be_bytes());
        bytes
    }

    /// Answers one request for information; empty if there is nothing to say.
    fn info(&self, what: u16) -> Vec<u8> {
        let mut bytes = what.to_be_bytes().to_vec();
        match what {
            INFO_EXPORT => bytes.extend(self.size_and_flags()),
            INFO_NAME => bytes.extend(self.name.as_bytes()),
            INFO_BLOCK_SIZE => {
                let sizes = [MIN_BLOCK_BYTES, PREFERRED_BLOCK_BYTES, MAX_PAYLOAD_BYTES];
                bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
            }
            _ => return Vec::new(),
        }
        bytes
    }
}

impl Handshake<'_> {
    fn send(&self, bytes: &[u8]) -> Result<(), Gone> {
        let mut stream = self.stream;
        stream.write_all(bytes).map_err(|_| Gone::Closed)
    }

    fn read<const N: usize>(&self) -> Result<[u8; N], Gone> {
        let mut bytes = [0; N];
        read_exact(self.stream, &mut bytes, self.stop, self.deadline)?;
        Ok(bytes)
    }

    fn reply(&self, option: u32, kind: u32, data: &[u8]) -> Result<(), Gone> {
        self.send(&option_reply(option, kind, data))
    }

    fn refuse(&self, option: u32, kind: u32, why: &str) -> Result<Next, Gone> {
        self.reply(option, kind, why.as_bytes())?;
        Ok(Next::Option)
    }

    fn option(&mut self) -> Result<Next, Gone> {
        let header: [u8; OPTION_LEN_BYTES] = self.read()?;
        let option = u32::from_be_bytes(part(&header, 8));
        let len = u32::from_be_bytes(part(&header, 12));
        if u64::from_be_bytes(part(&header, 0)) != OPTION_MAGIC || len > MAX_SKIPPED_BYTES {
            return Err(Gone::Nonsense);
        }
        let mut data = vec![0; len as usize];
        read_exact(self.stream, &mut data, self.stop, self.deadline)?;
        if len > MAX_OPTION_BYTES && option != OPT_EXPORT_NAME {
            return self.refuse(option, REP_ERR_TOO_BIG, "the option is too long");
        }
        match option {
            OPT_EXPORT_NAME => self.export_name(&data),
            OPT_ABORT => {
                self.reply(option, REP_ACK, &[])?;
                Ok(Next::End)
            }
            OPT_LIST => self.list(&data),
            OPT_INFO | OPT_GO => self.info(option, &data),
            _ => self.refuse(option, REP_ERR_UNSUP, "not supported"),
        }
    }

    fn export_name(&self, name: &[u8]) -> Result<Next, Gone> {
        if !self.export.is_called(name) {
            // This option has no way to be refused.
            return Ok(Next::End);
        }
        let mut bytes = self.export.size_and_flags();
        if !self.no_zeroes {
            bytes.extend([0; PADDING_LEN_BYTES]);
        }
        self.send(&bytes)?;
        Ok(Next::Transmission)
    }

    fn list(&self, data: &[u8]) -> Result<Next, Gone> {
        if !data.is_empty() {
            return self.refuse(OPT_LIST, REP_ERR_INVALID, "a list takes no data");
        }
        let name = self.export.name.as_bytes();
        let mut bytes = (name.len() as u32).to_be_bytes().to_vec();
        bytes.extend(name);
        self.reply(OPT_LIST, REP_SERVER, &bytes)?;
        self.reply(OPT_LIST, REP_ACK, &[])?;
        Ok(Next::Option)
    }

    fn info(&self, option: u32, data: &[u8]) -> Result<Next, Gone> {
        let Some((name, wanted)) = split_info(data) else {
            return self.refuse(option, REP_ERR_INVALID, "lengths contradict each other");
        };
        if !self.export.is_called(name) {
            return self.refuse(option, REP_ERR_UNKNOWN, "no such export");
        }
        // Size and block sizes are told to all, asked for or not; anything else to those who ask.
        let asked = wanted.chunks(2).map(|what| u16::from_be_bytes(part(what, 0))).filter(|what| *what == INFO_NAME);
        for what in [INFO_EXPORT, INFO_BLOCK_SIZE].into_iter().chain(asked.take(1)) {
            self.reply(option, REP_INFO, &self.export.info(what))?;
        }
        self.reply(option, REP_ACK, &[])?;
        Ok(if option == OPT_GO { Next::Transmission } else { Next::Option })
    }
}

/// Takes the data of INFO and GO apart: length and name, number and kinds of what is wanted.
fn split_info(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let name_len = u32::from_be_bytes(*data.first_chunk()?) as usize;
    let rest = data.get(4..)?;
    let (name, rest) = (rest.get(..name_len)?, rest.get(name_len..)?);
    let count = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
    let wanted = rest.get(2..)?;
    (wanted.len() == 2 * count).then_some((name, wanted))
}
