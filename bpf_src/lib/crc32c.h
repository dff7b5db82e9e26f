// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// How the CRC32c of a long packet changes when one word of it does: a CRC is linear, so that the other words need not be read.

enum crc32c_limit {
	CRC32C_BITS = 16, /* of the length of a packet in bytes */
};

/* The polynomial x to the power of 8 * 2^I modulo CRC32c's, bits reversed: the highest power is the lowest bit. */
static __always_inline __u32 crc32c_power(__u32 i)
{
	switch (i) {
	case 0:
		return 0x00800000;
	case 1:
		return 0x00008000;
	case 2:
		return 0x82f63b78;
	case 3:
		return 0x6ea2d55c;
	case 4:
		return 0x18b8ea18;
	case 5:
		return 0x510ac59a;
	case 6:
		return 0xb82be955;
	case 7:
		return 0xb8fdb1e7;
	case 8:
		return 0x88e56f72;
	case 9:
		return 0x74c360a4;
	case 10:
		return 0xe4172b16;
	case 11:
		return 0x0d65762a;
	case 12:
		return 0x35d73a62;
	case 13:
		return 0x28461564;
	case 14:
		return 0xbf455269;
	}
	return 0xe2ea32dc;
}

/* The product of two polynomials modulo CRC32c's. */
static __always_inline __u32 crc32c_times(__u32 one, __u32 other)
{
	__u32 product = 0;
	for (int i = 0; i < 32; i++) {
		product ^= other & -(one >> 31);
		one <<= 1;
		other = other >> 1 ^ (0x82f63b78 & -(other & 1));
	}
	return product;
}

/* By which bits the CRC of LENGTH bytes changes when their first four change by the bits CHANGE, the first byte lowest. */
static __always_inline __u32 crc32c_shift(__u32 change, __u16 length)
{
	for (__u32 i = 0; i < CRC32C_BITS; i++)
		if (length >> i & 1)
			change = crc32c_times(crc32c_power(i), change);
	return change;
}
