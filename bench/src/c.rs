//! The reference hash, compiled from C. This and `raw_ring` are the only files of the crate with `unsafe`.

extern "C" {
    fn metrohash64_reference(at: *const u8, len: u64, seed: u64) -> u64;
}

/// MetroHash64 of `bytes`, whose length is a multiple of 32 (what is behind the last multiple does not count).
pub fn hash64(bytes: &[u8]) -> u64 {
    let whole = bytes.len() - bytes.len() % 32;
    // SAFETY: the function reads `whole` bytes from the start of a slice that is at least that long, and keeps nothing.
    unsafe { metrohash64_reference(bytes.as_ptr(), whole as u64, 0x6765) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn agrees_with_the_stores_hash() {
        let bytes: Vec<u8> = (0..16384_u32).map(|at| (at * 131 + 7) as u8).collect();
        for len in [32, 64, 4096, 16384] {
            assert_eq!(super::hash64(&bytes[..len]), arenite_core::hash::hash64(&bytes[..len]), "{len} bytes");
        }
    }
}
