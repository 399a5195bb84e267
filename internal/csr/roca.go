package csr

import "math/big"

// isROCA reports whether an RSA modulus has the fingerprint of the key
// generator described in CVE-2017-15361: its primes are powers of 65537 modulo
// a product of small primes, so the modulus is such a power modulo each of
// them. A random modulus passes for one with probability below 2^-27.
func isROCA(n *big.Int) bool {
	residue, small := new(big.Int), new(big.Int)
	for _, p := range fingerprintPrimes() {
		r := residue.Mod(n, small.SetInt64(p)).Int64()
		if !isPower(r, rsaExponent%p, p) {
			return false
		}
	}
	return true
}

// fingerprintPrimes are the primes from 3 to 167 that the generator used.
func fingerprintPrimes() []int64 {
	return []int64{3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73,
		79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167}
}

// isPower reports whether r is a power of base modulo the prime p.
func isPower(r, base, p int64) bool {
	for x, i := int64(1), int64(0); i < p; i++ {
		if x == r {
			return true
		}
		x = x * base % p
	}
	return false
}
