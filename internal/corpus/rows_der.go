package corpus

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"

	"github.com/authsec-ai/icp/identity/svid"
)

// derCases are V-35: the certificate's own bytes.
func (w *World) derCases() []Case {
	after := func(f func([]byte) []byte) edit { return func(t *Template) { t.after = f } }
	serial := func(b ...byte) edit { return func(t *Template) { t.Serial = b } }
	long := func(n int) edit { return serial(bytes.Repeat([]byte{0x11}, n)...) }
	sha384 := signatureAlgorithm(w.A.Issuing.Key.Public(), crypto.SHA384)
	return []Case{
		w.badLeaf("V-35", "flipped-signature-bit", svid.BadSignature, after(flipLast)),
		w.badLeaf("V-35", "outer-and-inner-algorithm-differ", svid.AlgorithmMismatch, func(t *Template) { t.Outside = sha384 }),
		w.badLeaf("V-35", "trailing-bytes", svid.Malformed, after(func(der []byte) []byte { return append(der, 0) })),
		w.badLeaf("V-35", "indefinite-length", svid.Malformed, after(indefinite)),
		w.badLeaf("V-35", "truncated", svid.Malformed, after(func(der []byte) []byte { return der[:len(der)-1] })),
		w.badLeaf("V-35", "negative-serial", svid.BadSerial, serial(0x80, 1)),
		w.badLeaf("V-35", "zero-serial", svid.BadSerial, serial(0)),
		refused("V-35", "21-byte-serial", svid.BadSerial, w.leaf(long(21)), w.leaf(long(20))),
		w.badLeaf("V-35", "serial-not-minimal", svid.Malformed, serial(0, 1)),
		refused("V-35", "sixty-five-extensions", svid.Malformed, w.leaf(extensions(65)), w.leaf(extensions(64))),
		w.badLeaf("V-35", "bytes-after-basic-constraints", svid.Malformed, func(t *Template) {
			t.Set(BasicConstraints, true, append(sequence(), 0x05, 0x00))
		}),
		w.badLeaf("V-35", "bytes-after-SAN", svid.BadSAN, func(t *Template) {
			t.Set(SAN, false, append(sequence(uri(w.A.ID("/web"))), 0x05, 0x00))
		}),
		w.badIssuer("V-35", "issuer-with-trailing-bytes", svid.Malformed, after(func(der []byte) []byte { return append(der, 0) }), nil),
	}
}

// extensions fills a leaf up with unknown extensions to the count.
func extensions(count int) edit {
	return func(t *Template) {
		for n := 0; len(t.Extensions) < count; n++ {
			t.Extensions = append(t.Extensions, Extension{OID: string(oid(1, 3, 6, 1, 4, 1, 99999, 2, n)), Value: tlv(0x05)})
		}
	}
}

func flipLast(der []byte) []byte {
	out := bytes.Clone(der)
	out[len(out)-1] ^= 1
	return out
}

// indefinite writes the outermost length in BER's indefinite form.
func indefinite(der []byte) []byte {
	const header = 4 // tag and the length of a certificate of 256 to 65535 bytes
	return append(append([]byte{0x30, 0x80}, der[header:]...), 0, 0)
}

// keyCases are V-36: keys and algorithms outside the policy.
func (w *World) keyCases() []Case {
	return append(w.leafKeyCases(), w.signatureCases()...)
}

func (w *World) leafKeyCases() []Case {
	withSPKI := func(der []byte, key crypto.Signer) Case {
		c := w.leaf(func(t *Template) { t.SPKI = der })
		c.Key = key
		return c
	}
	with := func(key crypto.Signer) Case { return withSPKI(spki(key.Public()), key) }
	rsaKey := func(modulus *big.Int, e int) Case {
		return withSPKI(spki(&rsa.PublicKey{N: modulus, E: e}), nil)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	w.note(err)
	n, goodRSA := w.rsaKey.N, with(w.rsaKey)
	return []Case{
		refused("V-36", "RSA-1024", svid.WeakKey, with(w.weakRSA), goodRSA),
		refused("V-36", "RSA-16384", svid.WeakKey, rsaKey(w.modulus(16384), 65537), rsaKey(w.modulus(8192), 65537)),
		refused("V-36", "RSA-8193", svid.WeakKey, rsaKey(w.modulus(8193), 65537), rsaKey(w.modulus(8192), 65537)),
		refused("V-36", "RSA-e-3", svid.WeakKey, rsaKey(n, 3), goodRSA),
		refused("V-36", "RSA-e-even", svid.WeakKey, rsaKey(n, 65538), goodRSA),
		refused("V-36", "RSA-even-modulus", svid.WeakKey, rsaKey(new(big.Int).Sub(n, big.NewInt(1)), 65537), goodRSA),
		refused("V-36", "DSA", svid.WeakKey, withSPKI(dsaSPKI(), nil), goodRSA),
		refused("V-36", "P-224", svid.WeakKey, with(w.newKey(elliptic.P224())), with(w.newKey(elliptic.P384()))),
		refused("V-36", "explicit-curve", svid.WeakKey, withSPKI(explicitCurve(w.leafKey), nil), with(w.newKey(elliptic.P521()))),
		refused("V-36", "bytes-after-curve", svid.WeakKey, withSPKI(curveAndMore(w.leafKey), w.leafKey), w.leaf(nil)),
		refused("V-36", "Ed25519", svid.WeakKey, with(edKey), w.leaf(nil)),
	}
}

// modulus gives an odd number of the size; nobody knows its factors.
func (w *World) modulus(size uint) *big.Int {
	b := make([]byte, size/8+1)
	_, err := rand.Read(b)
	w.note(err)
	n := new(big.Int).SetBytes(b)
	n.SetBit(n.Rsh(n, uint(n.BitLen())-size+1), int(size)-1, 1)
	return n.SetBit(n, 0, 1)
}

// dsaSPKI is shaped as DSA, with a zero in the parameters.
func dsaSPKI() []byte {
	params := sequence(integer(0x0d), integer(0x05), integer(0))
	return sequence(sequence(oid(1, 2, 840, 10040, 4, 1), params), bits(0, integer(0x02)...))
}

// explicitCurve spells the parameters of P-256 out instead of naming it.
func explicitCurve(key ecdsaKey) []byte {
	p := elliptic.P256().Params()
	field := sequence(oid(1, 2, 840, 10045, 1, 1), positive(p.P))
	a := new(big.Int).Sub(p.P, big.NewInt(3))
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil
	}
	generator := append([]byte{4}, append(p.Gx.FillBytes(make([]byte, 32)), p.Gy.FillBytes(make([]byte, 32))...)...)
	params := sequence(integer(1), field, sequence(octets(a.Bytes()), octets(p.B.Bytes())), octets(generator), positive(p.N), integer(1))
	return sequence(sequence(oid(1, 2, 840, 10045, 2, 1), params), bits(0, point...))
}

// curveAndMore names P-256 and says more where the name should end.
func curveAndMore(key ecdsaKey) []byte {
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil
	}
	return sequence(sequence(oid(1, 2, 840, 10045, 2, 1), oid(1, 2, 840, 10045, 3, 1, 7), tlv(0x05)), bits(0, point...))
}

func positive(n *big.Int) []byte { return integer(append([]byte{0}, n.Bytes()...)...) }

func (w *World) signatureCases() []Case {
	hashed := func(hash crypto.Hash) edit { return func(t *Template) { t.hash = hash } }
	rsaCA := w.caWithKey(w.A.Anchor, "rsa issuer", w.A, w.rsaKey, nil)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	w.note(err)
	return []Case{
		refused("V-36", "MD5", svid.WeakSignature, w.under(rsaCA, hashed(crypto.MD5)), w.under(rsaCA, hashed(crypto.SHA512))),
		refused("V-36", "SHA-1-RSA", svid.WeakSignature, w.under(rsaCA, hashed(crypto.SHA1)), w.under(rsaCA, hashed(crypto.SHA384))),
		refused("V-36", "SHA-1-ECDSA", svid.WeakSignature, w.leaf(hashed(crypto.SHA1)), w.leaf(hashed(crypto.SHA384))),
		w.badIssuer("V-36", "issuer-signed-with-SHA-1", svid.CAWeakSignature, hashed(crypto.SHA1), hashed(crypto.SHA512)),
		refused("V-36", "issuer-with-RSA-1024", svid.CAWeakKey, w.withIssuerKey(w.weakRSA), w.withIssuerKey(w.rsaKey)),
		refused("V-36", "anchor-with-RSA-1024", svid.NoAuthorities, w.withAnchorKey(w.weakRSA), w.withAnchorKey(w.rsaKey)),
		refused("V-36", "issuer-with-Ed25519", svid.WeakSignature, w.withIssuerKey(edKey), w.withIssuerKey(w.newKey(elliptic.P384()))),
	}
}
