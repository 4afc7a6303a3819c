//! The numbers and messages of the NBD protocol that the server and the tests need. All integers are big-endian.
//!
//! ```text
//!   request       magic u32   flags u16   type u16   cookie u64   offset u64   length u32      28 bytes, then data
//!   simple reply  magic u32   error u32   cookie u64                                           16 bytes, then data
//!   option        magic u64   option u32  length u32                                           16 bytes, then data
//!   option reply  magic u64   option u32  type u32   length u32                                20 bytes, then data
//! ```
#![forbid(unsafe_code)]

/// First word of a server's greeting: "NBDMAGIC".
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of the greeting and first of each option: "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// First word of the reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const REPLY_MAGIC: u32 = 0x6744_6698;

/// Handshake flag of both sides: the fixed newstyle handshake.
pub const FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag of both sides: no padding behind the answer to [`OPT_EXPORT_NAME`].
pub const NO_ZEROES: u16 = 2;

/// Option: choose an export and begin, without a way to be refused.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: end the session.
pub const OPT_ABORT: u32 = 2;
/// Option: name the exports.
pub const OPT_LIST: u32 = 3;
/// Option: describe an export.
pub const OPT_INFO: u32 = 6;
/// Option: describe an export and begin.
pub const OPT_GO: u32 = 7;

/// Reply: done.
pub const REP_ACK: u32 = 1;
/// Reply: the name of an export.
pub const REP_SERVER: u32 = 2;
/// Reply: something about an export.
pub const REP_INFO: u32 = 3;
/// Reply: the option is not known.
pub const REP_ERR_UNSUP: u32 = 0x8000_0001;
/// Reply: the option contradicts itself.
pub const REP_ERR_INVALID: u32 = 0x8000_0003;
/// Reply: no such export.
pub const REP_ERR_UNKNOWN: u32 = 0x8000_0006;
/// Reply: the option is too long.
pub const REP_ERR_TOO_BIG: u32 = 0x8000_0009;

/// Information: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Information: the name.
pub const INFO_NAME: u16 = 1;
/// Information: the limits of a request.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flag: the flags are meant.
pub const HAS_FLAGS: u16 = 1;
/// Transmission flag: writes are refused.
pub const READ_ONLY: u16 = 2;
/// Transmission flag: flushes are understood.
pub const SEND_FLUSH: u16 = 4;
/// Transmission flag: trims are understood.
pub const SEND_TRIM: u16 = 32;

/// Request: read.
pub const CMD_READ: u16 = 0;
/// Request: write.
pub const CMD_WRITE: u16 = 1;
/// Request: end the session; has no reply.
pub const CMD_DISC: u16 = 2;
/// Request: make durable what was completed.
pub const CMD_FLUSH: u16 = 3;
/// Request: the range is not needed any more.
pub const CMD_TRIM: u16 = 4;

/// Requests are multiples of this, in bytes.
pub const MIN_BLOCK_BYTES: u32 = 512;
/// What a client does best to use, in bytes.
pub const PREFERRED_BLOCK_BYTES: u32 = 4096;
/// The longest request, in bytes: what clients may expect that did not ask.
pub const MAX_PAYLOAD_BYTES: u32 = 32 << 20;
/// Length of the header of a request, in bytes.
pub const REQUEST_LEN_BYTES: usize = 28;
/// Length of the header of an option, in bytes.
pub const OPTION_LEN_BYTES: usize = 16;
/// Zeros behind the answer to [`OPT_EXPORT_NAME`] for clients that want them.
pub const PADDING_LEN_BYTES: usize = 124;

/// The protocol's error numbers, as far as the server uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// Writing is not permitted.
    Perm = 1,
    /// The medium failed.
    Io = 5,
    /// The request contradicts the protocol or the limits.
    Inval = 22,
    /// A write behind the end, or no space.
    NoSpc = 28,
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Flags of the command.
    pub flags: u16,
    /// Which command.
    pub command: u16,
    /// Comes back with the reply.
    pub cookie: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the range.
    pub len: u32,
}

impl RequestHeader {
    /// Reads a header; `None` if it does not begin with the magic number.
    pub fn decode(bytes: &[u8; REQUEST_LEN_BYTES]) -> Option<Self> {
        let header = Self {
            flags: u16::from_be_bytes(part(bytes, 4)),
            command: u16::from_be_bytes(part(bytes, 6)),
            cookie: u64::from_be_bytes(part(bytes, 8)),
            offset: u64::from_be_bytes(part(bytes, 16)),
            len: u32::from_be_bytes(part(bytes, 24)),
        };
        (u32::from_be_bytes(part(bytes, 0)) == REQUEST_MAGIC).then_some(header)
    }

    /// The bytes of the header, as a client sends them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REQUEST_LEN_BYTES);
        bytes.extend(REQUEST_MAGIC.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.command.to_be_bytes());
        bytes.extend(self.cookie.to_be_bytes());
        bytes.extend(self.offset.to_be_bytes());
        bytes.extend(self.len.to_be_bytes());
        bytes
    }
}

/// The header of a simple reply.
pub fn simple_reply(error: Option<Errno>, cookie: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16);
    bytes.extend(REPLY_MAGIC.to_be_bytes());
    bytes.extend(error.map_or(0, |error| error as u32).to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes
}

/// A reply to an option.
pub fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + data.len());
    bytes.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    bytes.extend(option.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

/// Bytes from `at` on; zeros for those that are not there.
pub(crate) fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.iter_mut().zip(bytes.iter().skip(at)).for_each(|(to, from)| *to = *from);
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_protocol_says() {
        let header = RequestHeader { flags: 1, command: CMD_TRIM, cookie: 0x0102_0304_0506_0708, offset: 9, len: 10 };
        let bytes = header.encode();
        let mut wanted = vec![0x25, 0x60, 0x95, 0x13, 0, 1, 0, 4, 1, 2, 3, 4, 5, 6, 7, 8];
        wanted.extend([0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 10]);
        assert_eq!(bytes, wanted);
        let mut array: [u8; REQUEST_LEN_BYTES] = part(&bytes, 0);
        assert_eq!(RequestHeader::decode(&array), Some(header));
        array[3] = 0;
        assert_eq!(RequestHeader::decode(&array), None);
    }

    #[test]
    fn replies_are_laid_out_as_the_protocol_says() {
        let bytes = simple_reply(Some(Errno::NoSpc), 5);
        assert_eq!(bytes, [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 5]);
        let bytes = option_reply(OPT_GO, REP_INFO, &[7]);
        assert_eq!(bytes[..8], [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9]);
        assert_eq!(bytes[8..], [0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0, 1, 7]);
    }
}
