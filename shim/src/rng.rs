//! A small seeded generator of pseudo-random numbers (SplitMix64), so that every test is replayed by its seed.
#![forbid(unsafe_code)]

/// The generator. The same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that starts from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix64(self.0)
    }

    /// A number below `bound`, or 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of the multiplication is of no interest for bounds this small.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Whether an event of probability `of` in `outof` happens.
    pub fn chance(&mut self, of: u64, outof: u64) -> bool {
        self.below(outof) < of
    }
}

/// Mixes the bits of one number so that similar numbers give unlike results.
pub const fn mix64(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Fills `bytes` with numbers that follow from `seed`.
pub fn fill(seed: u64, bytes: &mut [u8]) {
    let mut rng = Rng::new(seed);
    for part in bytes.chunks_mut(8) {
        let word = rng.next_u64().to_le_bytes();
        part.iter_mut().zip(word).for_each(|(byte, new)| *byte = new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_the_seed_and_stay_below_the_bound() {
        let (mut one, mut two) = (Rng::new(7), Rng::new(7));
        let mut seen = [0u32; 5];
        for _ in 0..500 {
            let value = one.below(5);
            assert_eq!(value, two.below(5));
            seen[value as usize] += 1;
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
        assert_eq!(one.below(0), 0);
    }

    #[test]
    fn filling_depends_on_the_seed_and_reaches_the_end() {
        let (mut one, mut two) = ([0u8; 21], [0u8; 21]);
        fill(1, &mut one);
        fill(2, &mut two);
        assert_ne!(one, two);
        assert_ne!(one[16..], [0; 5]);
    }
}
