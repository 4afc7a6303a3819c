//! The checksum of the disk format: MetroHash64, variant 1, under the format's fixed seed, with the narrow products
//! of the original (see `narrow_product`), which only inputs whose length is no multiple of 8 show.
//!
//! Four lanes take 32 bytes a round, so that a block of 16 KiB is hashed at memory speed with plain 64-bit
//! multiplications; there are no tables and no state between calls. The length enters the initial state, hence a
//! caller that wants one digest over scattered parts chains digests of the parts (see
//! [`crate::format::chain_digest`]) instead of feeding a stream.
//!
//! Invariants: the result depends on the bytes alone. Words are taken little-endian on every host, although all
//! integers in the disk format itself are big-endian.
#![forbid(unsafe_code)]

/// Seed under which the disk format uses the hash.
const SEED: u64 = 0x6765;
const K0: u64 = 0xC83A_91E1;
const K1: u64 = 0x8648_DBDB;
const K2: u64 = 0x7BDE_C03B;
const K3: u64 = 0x2F58_70A5;

/// Hash of `bytes`, as stored in block pointers, superblocks and log headers. Takes no lock, needs no stack to
/// speak of, and may be called from any context.
#[must_use]
pub fn hash64(bytes: &[u8]) -> u64 {
    let mut hash = SEED.wrapping_add(K2).wrapping_mul(K0).wrapping_add(bytes.len() as u64);
    let (rounds, tail) = bytes.as_chunks::<32>();
    if !rounds.is_empty() {
        hash = hash.wrapping_add(lanes(rounds, hash));
    }
    finish(tail_16(tail, hash))
}

/// Little-endian word number `INDEX` of a 32-byte round. The index is a constant, so nothing is checked at run time.
#[inline(always)]
fn word<const INDEX: usize>(round: &[u8; 32]) -> u64 {
    let (words, _) = round.as_chunks::<8>();
    u64::from_le_bytes(words[INDEX])
}

/// Runs the four lanes over whole rounds and folds them into one word.
#[inline]
fn lanes(rounds: &[[u8; 32]], start: u64) -> u64 {
    let (mut a, mut b, mut c, mut d) = (start, start, start, start);
    for round in rounds {
        a = a.wrapping_add(word::<0>(round).wrapping_mul(K0)).rotate_right(29).wrapping_add(c);
        b = b.wrapping_add(word::<1>(round).wrapping_mul(K1)).rotate_right(29).wrapping_add(d);
        c = c.wrapping_add(word::<2>(round).wrapping_mul(K2)).rotate_right(29).wrapping_add(a);
        d = d.wrapping_add(word::<3>(round).wrapping_mul(K3)).rotate_right(29).wrapping_add(b);
    }
    c ^= cross(a, d, K0, b).wrapping_mul(K1);
    d ^= cross(b, c, K1, a).wrapping_mul(K0);
    a ^= cross(a, c, K0, d).wrapping_mul(K1);
    b ^= cross(b, d, K1, c).wrapping_mul(K0);
    a ^ b
}

/// One step of the fold between the lanes.
#[inline(always)]
fn cross(x: u64, y: u64, factor: u64, addend: u64) -> u64 {
    x.wrapping_add(y).wrapping_mul(factor).wrapping_add(addend).rotate_right(33)
}

/// Takes in the last 0 to 31 bytes: by 16, 8, 4, 2 and 1, each at most once.
#[inline]
fn tail_16(mut rest: &[u8], mut hash: u64) -> u64 {
    if let Some((pair, after)) = rest.split_first_chunk::<16>() {
        let (words, _) = pair.as_chunks::<8>();
        let mut a = hash.wrapping_add(u64::from_le_bytes(words[0]).wrapping_mul(K0)).rotate_right(33).wrapping_mul(K1);
        let mut b = hash.wrapping_add(u64::from_le_bytes(words[1]).wrapping_mul(K1)).rotate_right(33).wrapping_mul(K2);
        a ^= a.wrapping_mul(K0).rotate_right(35).wrapping_add(b);
        b ^= b.wrapping_mul(K3).rotate_right(35).wrapping_add(a);
        hash = hash.wrapping_add(b);
        rest = after;
    }
    if let Some((bytes, after)) = rest.split_first_chunk::<8>() {
        hash = absorb(hash, u64::from_le_bytes(*bytes).wrapping_mul(K3), 33);
        rest = after;
    }
    if let Some((bytes, after)) = rest.split_first_chunk::<4>() {
        let product = u32::from_le_bytes(*bytes).wrapping_mul(K3 as u32);
        hash = absorb(hash, u64::from(product), 15);
        rest = after;
    }
    if let Some((bytes, after)) = rest.split_first_chunk::<2>() {
        hash = absorb(hash, narrow_product(u16::from_le_bytes(*bytes)), 13);
        rest = after;
    }
    if let Some(&byte) = rest.first() {
        hash = absorb(hash, narrow_product(u16::from(byte)), 25);
    }
    hash
}

/// Product of a 16-bit or 8-bit word with K3 as the original's C arithmetic yields it: in a signed 32-bit integer that
/// wraps, and whose sign is then extended. The product of a 32-bit word is unsigned there. Both differ from the
/// published MetroHash, which multiplies in 64 bits; the format is what the original writes.
#[inline(always)]
fn narrow_product(value: u16) -> u64 {
    i64::from(i32::from(value).wrapping_mul(K3 as i32)) as u64
}

/// Mixes one word, already multiplied, into the state.
#[inline(always)]
fn absorb(hash: u64, product: u64, turn: u32) -> u64 {
    let sum = hash.wrapping_add(product);
    sum ^ sum.rotate_right(turn).wrapping_mul(K1)
}

/// Final avalanche.
#[inline(always)]
fn finish(hash: u64) -> u64 {
    let mixed = (hash ^ hash.rotate_right(33)).wrapping_mul(K0);
    mixed ^ mixed.rotate_right(33)
}

#[cfg(test)]
mod tests {
    use super::hash64;

    /// (length, hash) where byte `i` of the input is `(131 * i + 7) mod 256`; produced by the original program.
    const VECTORS: &[(usize, u64)] = &[
        (0, 0x35d2_44c2_ba0d_952f),
        (1, 0x354e_e7a9_e41d_5801),
        (2, 0x44aa_be48_60c7_dd40),
        (3, 0xa07a_8ab8_6a83_ce77),
        (4, 0x75c9_2c2b_7cc6_9cf2),
        (5, 0xa859_5d56_1e18_b1f6),
        (7, 0x4de7_8a78_b3cd_d816),
        (8, 0xf446_d176_3c79_5bd9),
        (9, 0xee29_9eb9_ae6b_7ed0),
        (15, 0x450a_0778_9d0a_2437),
        (16, 0x4b7f_8ecc_3b62_1909),
        (17, 0xb924_37c7_2bb2_4faf),
        (23, 0x8ce3_1757_0a02_2253),
        (24, 0xe87c_ce0c_fc6f_f1ce),
        (31, 0x8361_a6e6_5a10_a550),
        (32, 0x09cb_6dc9_618b_b366),
        (33, 0x85b8_b0bb_a5a1_541d),
        (40, 0x6e00_a49d_52a1_6367),
        (47, 0xab15_f7e2_2187_34c9),
        (48, 0x37f8_00c2_3394_078c),
        (63, 0x2db2_9cff_ab37_1e69),
        (64, 0xb649_0198_ae27_d5fa),
        (65, 0x0224_d21b_e0da_cb87),
        (100, 0x52a5_38ce_f4bf_1648),
        (127, 0x9c40_45e3_4a4d_2cf2),
        (128, 0x5bdf_67ef_fe55_12e9),
        (232, 0x4bf4_cc90_dded_d082),
        (1000, 0x36bc_5650_fa1d_2041),
        (4096, 0x68cf_23c2_4979_93da),
        (16384, 0x941e_707f_6493_ac5a),
    ];

    #[test]
    fn agrees_with_the_original() {
        let mut input = [0u8; 16384];
        for (i, byte) in input.iter_mut().enumerate() {
            *byte = ((i * 131 + 7) & 0xff) as u8;
        }
        for &(len, hash) in VECTORS {
            assert_eq!(hash64(&input[..len]), hash, "length {len}");
        }
    }

    #[test]
    fn a_block_of_zeroes_agrees() {
        assert_eq!(hash64(&[0; 16384]), 0x8d19_d874_5486_446e);
    }

    #[test]
    fn does_not_depend_on_alignment() {
        let mut input = [0u8; 128];
        for shift in 0..16 {
            for (i, byte) in input[shift..shift + 100].iter_mut().enumerate() {
                *byte = ((i * 131 + 7) & 0xff) as u8;
            }
            assert_eq!(hash64(&input[shift..shift + 100]), 0x52a5_38ce_f4bf_1648);
        }
    }

    #[test]
    fn every_bit_counts() {
        let mut input = [0x5au8; 79];
        let before = hash64(&input);
        for bit in 0..input.len() * 8 {
            input[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(hash64(&input), before, "bit {bit}");
            input[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
