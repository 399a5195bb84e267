package svid_test

import (
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/corpus"
)

// lintCase is a certificate changed in one way and what the lint says of it.
type lintCase struct {
	name   string
	want   svid.Reason // "" means clean
	change func(*corpus.Template)
}

func set(id string, critical bool, value string) func(*corpus.Template) {
	return func(t *corpus.Template) { t.Set(id, critical, []byte(value)) }
}

func drop(id string) func(*corpus.Template) {
	return func(t *corpus.Template) { t.Drop(id) }
}

// DER that the tables below put into extensions.
const (
	serverAndClient = "\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02"
	clientAndServer = "\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"
	bothAndAny      = "\x30\x1a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02\x06\x04\x55\x1d\x25\x00"
	webURI          = "\x86\x16spiffe://a.example/web"
	sanWithURI      = "\x30\x18" + webURI
	sanWithDNS      = "\x30\x1d\x82\x03web" + webURI
	sanWithEmail    = "\x30\x1d\x81\x03a@b" + webURI
	tdURI           = "\x86\x12spiffe://a.example"
)

func leafLints(now time.Time) []lintCase {
	noSubject := func(critical bool) func(*corpus.Template) {
		return func(t *corpus.Template) {
			t.Subject = []byte("\x30\x00")
			t.Set(corpus.SAN, critical, []byte(sanWithURI))
		}
	}
	return []lintCase{
		{"as-made", "", nil},
		{"two-URIs", svid.ManyURIs, func(t *corpus.Template) { t.URIs("spiffe://a.example/a", "spiffe://a.example/b") }},
		{"no-SAN", svid.NoURI, drop(corpus.SAN)},
		{"no-path", svid.NoPath, func(t *corpus.Template) { t.URIs("spiffe://a.example") }},
		{"2049-bytes", "id-too-long", func(t *corpus.Template) { t.URIs("spiffe://a.example/" + string(make([]byte, 2030))) }},
		{"DNS-beside-URI", "", set(corpus.SAN, false, sanWithDNS)},
		{"email-beside-URI", svid.LintSAN, set(corpus.SAN, false, sanWithEmail)},
		{"SAN-critical-with-subject", svid.LintSANCritical, set(corpus.SAN, true, sanWithURI)},
		{"SAN-not-critical-without-subject", svid.LintSANCritical, noSubject(false)},
		{"SAN-critical-without-subject", "", noSubject(true)},
		{"no-basic-constraints", svid.LintBasicConstraints, drop(corpus.BasicConstraints)},
		{"basic-constraints-not-critical", svid.LintBasicConstraints, set(corpus.BasicConstraints, false, "\x30\x00")},
		{"cA-false-spelled-out", svid.LintBasicConstraints, set(corpus.BasicConstraints, true, "\x30\x03\x01\x01\x00")},
		{"cA", svid.LeafIsCA, set(corpus.BasicConstraints, true, "\x30\x03\x01\x01\xff")},
		{"path-length", svid.LeafPathLength, set(corpus.BasicConstraints, true, "\x30\x03\x02\x01\x00")},
		{"no-key-usage", svid.NoKeyUsage, drop(corpus.KeyUsage)},
		{"key-usage-not-critical", svid.KeyUsageNotCrit, set(corpus.KeyUsage, false, "\x03\x02\x07\x80")},
		{"keyEncipherment-too", "", set(corpus.KeyUsage, true, "\x03\x02\x05\xa0")},
		{"keyAgreement-too", "", set(corpus.KeyUsage, true, "\x03\x02\x03\x88")},
		{"nonRepudiation-too", svid.LintKeyUsage, set(corpus.KeyUsage, true, "\x03\x02\x06\xc0")},
		{"key-usage-not-DER", svid.LintKeyUsage, set(corpus.KeyUsage, true, "\x03\x02\x00\x80")},
		{"keyCertSign", svid.LeafSignsCerts, set(corpus.KeyUsage, true, "\x03\x02\x02\x84")},
		{"no-extended-key-usage", svid.LintExtKeyUsage, drop(corpus.ExtKeyUsage)},
		{"extended-key-usage-critical", svid.LintExtKeyUsage, set(corpus.ExtKeyUsage, true, serverAndClient)},
		{"extended-key-usage-in-other-order", "", set(corpus.ExtKeyUsage, false, clientAndServer)},
		{"extended-key-usage-with-any", svid.LintExtKeyUsage, set(corpus.ExtKeyUsage, false, bothAndAny)},
		{"no-subject-key-id", svid.LintKeyID, drop(corpus.SubjectKeyID)},
		{"empty-subject-key-id", svid.LintKeyID, set(corpus.SubjectKeyID, false, "\x04\x00")},
		{"no-authority-key-id", svid.LintKeyID, drop(corpus.AuthorityKeyID)},
		{"authority-key-id-without-key", svid.LintKeyID, set(corpus.AuthorityKeyID, false, "\x30\x00")},
		{"unknown-extension", svid.LintExtension, set(corpus.Unknown, false, "\x05\x00")},
		{"zero-serial", svid.BadSerial, func(t *corpus.Template) { t.Serial = []byte{0} }},
		{"21-byte-serial", svid.BadSerial, func(t *corpus.Template) { t.Serial = make([]byte, 21) }},
		{"2050", "", func(t *corpus.Template) { t.Until(now, time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)) }},
		{"GeneralizedTime-before-2050", svid.LintValidity, generalized(now)},
	}
}

// generalized writes a time before 2050 in the form for later ones.
func generalized(now time.Time) func(*corpus.Template) {
	return func(t *corpus.Template) {
		const form = "\x18\x0f20060102150405Z"
		t.Validity = []byte(now.Add(-time.Hour).UTC().Format(form) + now.Add(time.Hour).UTC().Format(form))
	}
}

func TestLintLeaf(t *testing.T) {
	world := newWorld(t)
	for _, c := range leafLints(world.Now) {
		t.Run(c.name, func(t *testing.T) {
			checkLint(t, svid.LintLeaf(world.Leaf(world.A.Issuing, c.change)), c.want)
		})
	}
	t.Run("authority", func(t *testing.T) { checkLint(t, svid.LintLeaf(world.A.Issuing.DER), svid.LeafIsCA) })
	t.Run("garbage", func(t *testing.T) { checkLint(t, svid.LintLeaf([]byte("garbage")), svid.Malformed) })
	noError(t, world)
}

func noError(t *testing.T, world *corpus.World) {
	t.Helper()
	if err := world.Err(); err != nil {
		t.Fatal(err)
	}
}

func checkLint(t *testing.T, err error, want svid.Reason) {
	t.Helper()
	if (err == nil) != (want == "") || svid.ReasonOf(err) != want {
		t.Errorf("got %v, want %q", err, want)
	}
}

// X509-01, -05, -06, -07, -14, -16, -20, ID-22 for what signs.
func TestLintAuthority(t *testing.T) {
	world := newWorld(t)
	for _, c := range []lintCase{
		{"as-made", "", nil},
		{"not-a-CA", svid.CANotCA, set(corpus.BasicConstraints, true, "\x30\x00")},
		{"basic-constraints-not-critical", svid.LintBasicConstraints, set(corpus.BasicConstraints, false, "\x30\x06\x01\x01\xff\x02\x01\x00")},
		{"no-path-length", "", set(corpus.BasicConstraints, true, "\x30\x03\x01\x01\xff")},
		{"no-key-usage", svid.CANoKeyUsage, drop(corpus.KeyUsage)},
		{"key-usage-not-critical", svid.CAKeyUsageNotCrit, set(corpus.KeyUsage, false, "\x03\x02\x01\x06")},
		{"no-cRLSign", svid.LintKeyUsage, set(corpus.KeyUsage, true, "\x03\x02\x02\x04")},
		{"digitalSignature-too", svid.LintKeyUsage, set(corpus.KeyUsage, true, "\x03\x02\x01\x86")},
		{"extended-key-usage", svid.LintExtension, set(corpus.ExtKeyUsage, false, serverAndClient)},
		{"no-URI", svid.LintAuthorityID, drop(corpus.SAN)},
		{"URI-with-path", svid.LintAuthorityID, func(t *corpus.Template) { t.URIs("spiffe://a.example/ca") }},
		{"URI-with-slash", svid.LintAuthorityID, func(t *corpus.Template) { t.URIs("spiffe://a.example/") }},
		{"two-URIs", svid.LintAuthorityID, func(t *corpus.Template) { t.URIs("spiffe://a.example", "spiffe://b.example") }},
		{"DNS-beside-URI", svid.LintSAN, set(corpus.SAN, false, "\x30\x19\x82\x03web"+tdURI)},
		{"no-subject", svid.LintSubject, func(t *corpus.Template) { t.Subject = []byte("\x30\x00") }},
		{"no-subject-key-id", svid.LintKeyID, drop(corpus.SubjectKeyID)},
		{"no-authority-key-id", svid.LintKeyID, drop(corpus.AuthorityKeyID)},
		{"unknown-extension", svid.LintExtension, set(corpus.Unknown, false, "\x05\x00")},
		{"constraint-is-a-host", "", set(corpus.NameConstraints, true, "\x30\x0f\xa0\x0d\x30\x0b\x86\x09a.example")},
		{"constraint-is-a-URL", svid.LintHasConstraint, set(corpus.NameConstraints, true, "\x30\x11\xa0\x0f\x30\x0d\x86\x0bspiffe%3a.b")},
		{"ends-before-it-begins", svid.BadValidity, func(t *corpus.Template) { t.Until(world.Now, world.Now.Add(-time.Hour)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkLint(t, svid.LintAuthority(world.CA(world.A.Anchor, "a.example linted", world.A, c.change).DER), c.want)
		})
	}
	t.Run("anchor", func(t *testing.T) { checkLint(t, svid.LintAuthority(world.A.Anchor.DER), "") })
	t.Run("anchor-without-authority-key-id", func(t *testing.T) {
		checkLint(t, svid.LintAuthority(world.CA(nil, "alone", world.A, drop(corpus.AuthorityKeyID)).DER), "")
	})
	noError(t, world)
}

// Whatever the lint lets through, the validator accepts.
func TestLintIsStricter(t *testing.T) {
	world := newWorld(t)
	clean := 0
	for _, c := range leafLints(world.Now) {
		leaf := world.Leaf(world.A.Issuing, c.change)
		if svid.LintLeaf(leaf) != nil {
			continue
		}
		clean++
		if _, err := svid.VerifyX509([][]byte{leaf, world.A.Issuing.DER}, world.Bundles, svid.X509Options{Now: world.Now}); err != nil {
			t.Errorf("%s: the lint lets through what the validator refuses: %v", c.name, err)
		}
	}
	if clean < 5 {
		t.Errorf("only %d certificates passed the lint", clean)
	}
	noError(t, world)
}
