package verifier_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/verifier"
	"github.com/authsec-ai/icp/internal/corpus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProveNginx(t *testing.T)    { t.Log(verifier.ProveNginx(t)) }
func TestProveHAProxy(t *testing.T)  { t.Log(verifier.ProveHAProxy(t)) }
func TestProveOpenSSL(t *testing.T)  { t.Log(verifier.ProveOpenSSL(t)) }
func TestProveGnuTLS(t *testing.T)   { t.Log(verifier.ProveGnuTLS(t)) }
func TestProveJava(t *testing.T)     { t.Log(verifier.ProveJava(t)) }
func TestProvePython(t *testing.T)   { t.Log(verifier.ProvePython(t)) }
func TestProvePyca(t *testing.T)     { t.Log(verifier.ProvePyca(t)) }
func TestProvePostgres(t *testing.T) { t.Log(verifier.ProvePostgres(t)) }

const accepted = "accepted"

// verdicts are, by verifier and chain, what a refusal says, or accepted.
var verdicts = map[string]map[string]string{
	"nginx": {
		"good":                  accepted,
		"stranger's":            "FAILED:unable to get local issuer certificate",
		"stranger's and anchor": "FAILED:self-signed certificate in certificate chain",
		"expired leaf":          "FAILED:certificate has expired",
		"leaf for servers":      "FAILED:unsuitable certificate purpose",
		"no intermediate":       "FAILED:unable to verify the first certificate",
		"another's key":         "bad signature",
		"cut leaf":              "asn1 encoding routines::too long",
		"none":                  "NONE",
	},
	// HAProxy gives OpenSSL's reasons for a chain as numbers alone.
	"HAProxy": {
		"good":                  accepted,
		"stranger's":            "ssl_c_ca_err=20 ssl_c_err=0",
		"stranger's and anchor": "ssl_c_ca_err=19 ssl_c_err=0",
		"expired leaf":          "ssl_c_ca_err=0 ssl_c_err=10",
		"leaf for servers":      "ssl_c_ca_err=0 ssl_c_err=26",
		"no intermediate":       "ssl_c_ca_err=0 ssl_c_err=20",
		"another's key":         "bad signature",
		"cut leaf":              "asn1 encoding routines::too long",
		"none":                  "peer did not return a certificate",
	},
	"OpenSSL": {
		"good":                  accepted,
		"stranger's":            "20:unable to get local issuer certificate",
		"stranger's and anchor": "19:self-signed certificate in certificate chain",
		"expired leaf":          "10:certificate has expired",
		"leaf for servers":      "26:unsuitable certificate purpose",
		"no intermediate":       "20:unable to get local issuer certificate",
		"another's key":         "bad signature",
		"cut leaf":              "too long",
		"none":                  "peer did not return a certificate",
	},
	// gnutls-serv does not ask the library about the extended key usage, and the
	// library does not ask of itself.
	"GnuTLS": {
		"good":                  accepted,
		"stranger's":            "The certificate issuer is unknown.",
		"stranger's and anchor": "The certificate issuer is unknown.",
		"expired leaf":          "The certificate chain uses expired certificate.",
		"leaf for servers":      accepted,
		"no intermediate":       "The certificate issuer is unknown.",
		"another's key":         "Public key signature verification has failed.",
		"cut leaf":              "Error in DER parsing.",
		"none":                  "Certificate is required.",
	},
	"Java": {
		"good":                  accepted,
		"stranger's":            "unable to find valid certification path to requested target",
		"stranger's and anchor": "unable to find valid certification path to requested target",
		"expired leaf":          "validity check failed",
		"leaf for servers":      "Extended key usage does not permit use for TLS client authentication",
		"no intermediate":       "unable to find valid certification path to requested target",
		"another's key":         "Invalid CertificateVerify signature",
		"cut leaf":              "Failed to parse client certificates",
		"none":                  "Empty client certificate chain",
	},
	"Python": {
		"good":                  accepted,
		"stranger's":            "unable to get local issuer certificate",
		"stranger's and anchor": "self-signed certificate in certificate chain",
		"expired leaf":          "certificate has expired",
		"leaf for servers":      "unsuitable certificate purpose",
		"no intermediate":       "unable to get local issuer certificate",
		"another's key":         "bad signature",
		"cut leaf":              "ASN1 lib",
		"none":                  "peer did not return a certificate",
	},
	// pyca sees the chain alone, so that a copy of it is as good. The stranger's
	// self-signed anchor is to it one more issuer, which leads on to itself until
	// the path is too long.
	"pyca": {
		"good":                  accepted,
		"stranger's":            "all candidates exhausted",
		"stranger's and anchor": "path length constraint violated",
		"expired leaf":          "cert is not valid at validation time",
		"leaf for servers":      "required EKU not found",
		"no intermediate":       "all candidates exhausted",
		"another's key":         accepted,
		"cut leaf":              "error parsing asn1 value",
		"none":                  "no certificate",
	},
	// This PostgreSQL comes with an older OpenSSL, with words of its own for two
	// of the reasons.
	"PostgreSQL": {
		"good":                  accepted,
		"stranger's":            "at depth 1: unable to get local issuer certificate",
		"stranger's and anchor": "at depth 2: self signed certificate in certificate chain",
		"expired leaf":          "at depth 0: certificate has expired",
		"leaf for servers":      "at depth 0: unsupported certificate purpose",
		"no intermediate":       "at depth 0: unable to get local issuer certificate",
		"another's key":         "bad signature",
		"cut leaf":              "too long",
		"none":                  "connection requires a valid client certificate",
	},
}

// TestVerdicts shows every chain to every verifier that has A's anchor, and the
// stranger's to one that has both.
func TestVerdicts(t *testing.T) {
	w := newWorld(t)
	chains := w.chains(t)
	a, b := parse(t, w.A.Anchor.DER), parse(t, w.B.Anchor.DER)
	var asked []string
	for _, v := range verifier.All(t) {
		asked = append(asked, v.Name)
		t.Run(v.Name, func(t *testing.T) {
			want := verdicts[v.Name]
			running := v.Start(t, []*x509.Certificate{a})
			for name, chain := range chains {
				if err := judge(running.Ask(t, chain), want[name]); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if err := v.Verify(t, []*x509.Certificate{a, b}, chains["stranger's"]); err != nil {
				t.Errorf("with both anchors the stranger's chain is refused: %v", err)
			}
		})
	}
	if want := slices.Sorted(maps.Keys(verdicts)); !slices.Equal(slices.Sorted(slices.Values(asked)), want) {
		t.Errorf("asked %q; want %q", asked, want)
	}
}

// judge says how a verdict differs from the one that is wanted.
func judge(refusal error, want string) error {
	switch {
	case want == "":
		return fmt.Errorf("the verdict is %v, and the test wants none", refusal)
	case want == accepted && refusal == nil:
		return nil
	case want != accepted && refusal != nil && strings.Contains(refusal.Error(), want):
		return nil
	}
	return fmt.Errorf("the verdict is %v; want %s", refusal, want)
}

// TestParallel has tests share a verifier that names no client in its log.
func TestParallel(t *testing.T) {
	w := newWorld(t)
	chains := w.chains(t)
	running := verifier.OpenSSL(t).Start(t, []*x509.Certificate{parse(t, w.A.Anchor.DER)})
	for range 4 {
		for name, chain := range chains {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if err := judge(running.Ask(t, chain), verdicts["OpenSSL"][name]); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestStopped shows that a verifier that does not answer refuses nothing: it
// fails the test.
func TestStopped(t *testing.T) {
	w := newWorld(t)
	chain := w.chains(t)["stranger's"]
	anchor := parse(t, w.A.Anchor.DER)
	decided := false
	err := stage.Run(t.Context(), func(s *stage.Session) {
		running := verifier.Python(s).Start(s, []*x509.Certificate{anchor})
		running.Stop()
		_ = running.Ask(s, chain) // must not return
		decided = true
	})
	if decided || err == nil || !strings.Contains(err.Error(), "connect to a verifier") {
		t.Errorf("decided %v, error %v; want it not to connect", decided, err)
	}
}

// world is the corpus's two trust domains.
type world struct{ *corpus.World }

func newWorld(t *testing.T) world {
	t.Helper()
	w, err := corpus.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return world{w}
}

// serverAuth is an extended key usage of id-kp-serverAuth alone, DER.
const serverAuth = "\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"

// chains gives the chains of verdicts. All claim the same ID.
func (w world) chains(t *testing.T) map[string]tls.Certificate {
	t.Helper()
	leaf := func(edit func(*corpus.Template)) []byte { return w.Leaf(w.A.Issuing, edit) }
	past := func(t *corpus.Template) { t.Until(w.Now.Add(-time.Hour), w.Now.Add(-time.Minute)) }
	server := func(t *corpus.Template) { t.Set(corpus.ExtKeyUsage, false, []byte(serverAuth)) }
	strangers := w.Leaf(w.B.Issuing, nil)
	good := leaf(nil)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stolen := w.chain(good, w.A.Issuing.DER)
	stolen.PrivateKey = key
	return map[string]tls.Certificate{
		"good":                  w.chain(good, w.A.Issuing.DER),
		"stranger's":            w.chain(strangers, w.B.Issuing.DER),
		"stranger's and anchor": w.chain(strangers, w.B.Issuing.DER, w.B.Anchor.DER),
		"expired leaf":          w.chain(leaf(past), w.A.Issuing.DER),
		"leaf for servers":      w.chain(leaf(server), w.A.Issuing.DER),
		"no intermediate":       w.chain(good),
		"another's key":         stolen,
		"cut leaf":              w.chain(good[:len(good)-1], w.A.Issuing.DER),
		"none":                  {},
	}
}

func (w world) chain(ders ...[]byte) tls.Certificate {
	return tls.Certificate{Certificate: ders, PrivateKey: w.LeafKey()}
}

func parse(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
