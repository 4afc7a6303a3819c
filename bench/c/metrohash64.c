/* MetroHash64, variant 1 (J. Andrew Rogers), for inputs whose length is a multiple of 32 bytes: what the store's own
 * hash is measured against. Little-endian hosts with unaligned loads through memcpy. */
#include <stdint.h>
#include <string.h>

static inline uint64_t turn(uint64_t x, unsigned n)
{
	return x >> n | x << (64 - n);
}

static inline uint64_t load(const unsigned char *at)
{
	uint64_t word;

	memcpy(&word, at, sizeof word);
	return word;
}

uint64_t metrohash64_reference(const unsigned char *at, uint64_t len, uint64_t seed)
{
	const uint64_t k[4] = { 0xC83A91E1, 0x8648DBDB, 0x7BDEC03B, 0x2F5870A5 };
	const unsigned char *end = at + len;
	uint64_t hash = (seed + k[2]) * k[0] + len;
	uint64_t v[4] = { hash, hash, hash, hash };

	for (; at < end; at += 32) {
		v[0] = turn(v[0] + load(at) * k[0], 29) + v[2];
		v[1] = turn(v[1] + load(at + 8) * k[1], 29) + v[3];
		v[2] = turn(v[2] + load(at + 16) * k[2], 29) + v[0];
		v[3] = turn(v[3] + load(at + 24) * k[3], 29) + v[1];
	}
	if (len >= 32) {
		v[2] ^= turn((v[0] + v[3]) * k[0] + v[1], 33) * k[1];
		v[3] ^= turn((v[1] + v[2]) * k[1] + v[0], 33) * k[0];
		v[0] ^= turn((v[0] + v[2]) * k[0] + v[3], 33) * k[1];
		v[1] ^= turn((v[1] + v[3]) * k[1] + v[2], 33) * k[0];
		hash += v[0] ^ v[1];
	}
	hash = (hash ^ turn(hash, 33)) * k[0];
	return hash ^ turn(hash, 33);
}
