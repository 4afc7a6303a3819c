//! Sizes as people write them: `4096`, `64K`, `256M`, `1G`, with powers of 1024.

/// Parses a size in bytes; a suffix of K, M, G or T (either case, optionally followed by `iB` or `B`) multiplies by
/// a power of 1024.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, suffix) = text.split_at(digits_end);
    let number: u64 = digits.parse().map_err(|_| format!("`{text}` is not a size (try 64M or 1G)"))?;
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("`{suffix}` is not a unit of size (K, M, G or T)")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is too large"))
}

/// Writes a size for people, with at most one decimal: `512 B`, `1.5 KiB`, `300.0 MiB`.
pub fn show(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("3k"), Ok(3072));
        assert_eq!(parse("256M"), Ok(256 << 20));
        assert_eq!(parse("1GiB"), Ok(1 << 30));
        assert_eq!(parse("2tb"), Ok(2 << 40));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "M", "-1M", "1.5M", "12 M", "5X", "99999999999999999999", "20000000T"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shown_with_a_unit() {
        assert_eq!(show(0), "0 B");
        assert_eq!(show(1023), "1023 B");
        assert_eq!(show(1536), "1.5 KiB");
        assert_eq!(show(300 << 20), "300.0 MiB");
        assert_eq!(show(u64::MAX), "16777216.0 TiB");
    }
}
