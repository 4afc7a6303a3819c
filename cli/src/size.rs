//! Sizes as people write them, and as they like to read them.

/// Parses bytes: a number, and K, M, G or T for binary units behind it.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("a size is a number of bytes, or one with K, M, G or T behind it, like 64M".to_owned());
    }
    // Files are no longer than the numbers of the system's file offsets.
    let largest = u64::MAX >> 1;
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes <= largest).ok_or_else(|| "more bytes than any file can have".to_owned())
}

/// Parses a number of things.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "a whole number is wanted, like 1000000".to_owned())
}

/// Parses a byte address: decimal, hexadecimal behind 0x, or like a size.
pub(crate) fn parse_addr(text: &str) -> Result<u64, String> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).map_err(|_| "no address: more than 64 bits, or no digits".to_owned())
        }
        Some(_) => Err("behind 0x come hexadecimal digits".to_owned()),
        None => parse(text).map_err(|_| "an address is a number of bytes, like 16384, 0x4000 or 16K".to_owned()),
    }
}

/// Bytes in the largest binary unit of which there is at least one.
pub(crate) fn binary(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (0..units.len()).rev().find(|step| bytes >> (10 * step) != 0).unwrap_or(0);
    let unit = 1_u64 << (10 * step);
    if bytes.is_multiple_of(unit) {
        return format!("{} {}", bytes / unit, units[step]);
    }
    // Whole numbers all the way, rounded down: no volume looks emptier than it is.
    let hundredths = u128::from(bytes) * 100 / u128::from(unit);
    format!("{}.{:02} {}", hundredths / 100, hundredths % 100, units[step])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let cases = [("0", 0), ("4096", 4096), ("64M", 64 << 20), ("1G", 1 << 30), ("16T", 16 << 40), ("7k", 7168)];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "-1", "1.5G", "64MB", "64 M", "0x10", "1e9", "16777216T", "9223372036854775808", "\u{e9}"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("9223372036854775807"), Ok((1 << 63) - 1));
    }

    #[test]
    fn addresses_are_read() {
        for (text, addr) in [("0", 0), ("0x1c000", 0x1c000), ("0X1C000", 0x1c000), ("16K", 16384), ("12", 12)] {
            assert_eq!(parse_addr(text), Ok(addr), "{text}");
        }
        for text in ["", "0x", "0xg", "1c000", "0x10000000000000000", "0x+1", "-1"] {
            assert!(parse_addr(text).is_err(), "{text}");
        }
    }

    #[test]
    fn binary_units_round_down() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (16384, "16 KiB"),
            (204_587_008, "195.10 MiB"),
            ((1 << 40) - 1, "1023.99 GiB"),
            (1 << 40, "1 TiB"),
            (u64::MAX, "16777215.99 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(binary(bytes), text, "{bytes}");
        }
    }
}
