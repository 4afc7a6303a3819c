//! A client that does what a test wants, right or wrong.

use arenite_shim::nbd::wire::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// One connection.
pub struct Client {
    stream: UnixStream,
    next_cookie: u64,
}

/// A reply to an option: its kind and data.
pub type OptionReply = (u32, Vec<u8>);

impl Client {
    /// Connects and reads the greeting; the client's flags are still to be sent.
    pub fn raw(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut client = Self { stream, next_cookie: 100 };
        let mut greeting = GREETING_MAGIC.to_be_bytes().to_vec();
        greeting.extend(OPTION_MAGIC.to_be_bytes());
        greeting.extend([0, 3]);
        assert_eq!(client.receive(18), greeting);
        client
    }

    /// Connects; options can be sent.
    pub fn greeted(path: &Path) -> Self {
        let mut client = Self::raw(path);
        client.send(&3_u32.to_be_bytes());
        client
    }

    /// Connects and goes on to the transmission.
    pub fn connect(path: &Path) -> Self {
        let mut client = Self::greeted(path);
        let replies = client.option(OPT_GO, &go("", &[]));
        assert_eq!(replies.last().unwrap().0, REP_ACK);
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whether the server has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    /// Sends an option; all replies to it.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Vec<OptionReply> {
        self.send(&option_header(option, data.len() as u32));
        self.send(data);
        self.option_replies(option)
    }

    /// Reads the replies to an option, up to the last.
    pub fn option_replies(&mut self, option: u32) -> Vec<OptionReply> {
        let mut replies = Vec::new();
        loop {
            let header = self.receive(20);
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            assert_eq!(header[..8], OPTION_REPLY_MAGIC.to_be_bytes());
            assert_eq!(word(8), option);
            let data = self.receive(word(16) as usize);
            replies.push((word(12), data));
            if word(12) == REP_ACK || word(12) >> 31 != 0 {
                return replies;
            }
        }
    }

    /// Sends a request and does not wait; its cookie.
    pub fn issue(&mut self, command: u16, offset: u64, len: u32, data: &[u8]) -> u64 {
        self.next_cookie += 1;
        let cookie = self.next_cookie;
        self.send(&RequestHeader { flags: 0, command, cookie, offset, len }.encode());
        self.send(data);
        cookie
    }

    /// The next reply: its error and cookie.
    pub fn reply(&mut self) -> (u32, u64) {
        let bytes = self.receive(16);
        assert_eq!(bytes[..4], REPLY_MAGIC.to_be_bytes());
        let (error, cookie) = (&bytes[4..8], &bytes[8..]);
        (u32::from_be_bytes(error.try_into().unwrap()), u64::from_be_bytes(cookie.try_into().unwrap()))
    }

    /// Sends a request without data and waits for the reply; its error.
    pub fn ask(&mut self, command: u16, offset: u64, len: u32) -> u32 {
        let cookie = self.issue(command, offset, len, &[]);
        let (error, found) = self.reply();
        assert_eq!(found, cookie);
        error
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> u32 {
        let cookie = self.issue(CMD_WRITE, offset, bytes.len() as u32, bytes);
        let (error, found) = self.reply();
        assert_eq!(found, cookie);
        error
    }

    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, u32> {
        match self.ask(CMD_READ, offset, len) {
            0 => Ok(self.receive(len as usize)),
            error => Err(error),
        }
    }

    pub fn flush(&mut self) -> u32 {
        self.ask(CMD_FLUSH, 0, 0)
    }

    /// Says that it ends, and waits until the server has.
    pub fn end(&mut self) {
        self.issue(CMD_DISC, 0, 0, &[]);
        assert!(self.is_closed());
    }
}

pub fn option_header(option: u32, len: u32) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// The data of GO and INFO.
pub fn go(name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut bytes = (name.len() as u32).to_be_bytes().to_vec();
    bytes.extend(name.as_bytes());
    bytes.extend((wanted.len() as u16).to_be_bytes());
    bytes.extend(wanted.iter().flat_map(|what| what.to_be_bytes()));
    bytes
}
