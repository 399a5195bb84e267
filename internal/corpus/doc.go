// Package corpus builds hostile certificate chains and tokens, each beside its
// good twin, for the tests of every door that lets a peer in: the validator,
// the proxy's listener and the Workload API's ValidateJWTSVID.
//
//	world, err := corpus.New(time.Now())
//	for _, c := range world.X509() {
//		_, err := svid.VerifyX509(c.Chain, c.Bundles, c.Options)
//		// svid.ReasonOf(err) must be c.Want; c.Twin must be accepted
//	}
//
// Certificates are put together byte by byte, because libraries refuse to make
// most of these. Only tests and the stage import this package.
package corpus
