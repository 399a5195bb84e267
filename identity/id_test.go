package identity_test

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
)

// idOf gives an ID of exactly size bytes.
func idOf(size int) string {
	const prefix = "spiffe://td/"
	return prefix + strings.Repeat("a", size-len(prefix))
}

// idRows are the rules for the text of a SPIFFE ID, row by row: what is refused
// and why, and what beside it is accepted.
var idRows = []struct {
	row   string
	fault identity.Fault
	bad   []string
	twins []string
}{
	{"ID-01", identity.FaultScheme,
		[]string{"https://td/a", "spiffes://td/a", "spiff://td/a", "td/a", "//td/a", "", " spiffe://td/a", "spiffe"}, []string{"spiffe://td/a"}},
	{"ID-02", identity.FaultNoTrustDomain, []string{"spiffe:///a", "spiffe://"}, []string{"spiffe://t/a", "spiffe://t"}},
	{"ID-02", identity.FaultScheme, []string{"spiffe:td/a", "spiffe:/td/a"}, []string{"spiffe://td/a"}},
	{"ID-03", identity.FaultQuery, []string{"spiffe://td/a?x", "spiffe://td/a?", "spiffe://td?x", "spiffe://td?"}, []string{"spiffe://td/a", "spiffe://td"}},
	{"ID-04", identity.FaultFragment, []string{"spiffe://td/a#f", "spiffe://td/a#", "spiffe://td#", "spiffe://td#/a"}, []string{"spiffe://td/a", "spiffe://td"}},
	{"ID-05", identity.FaultUserinfo, []string{"spiffe://u@td/a", "spiffe://@td/a", "spiffe://u:p@td/a", "spiffe://td@/a"}, []string{"spiffe://td/a"}},
	{"ID-06", identity.FaultPort, []string{"spiffe://td:443/a", "spiffe://td:/a", "spiffe://td:"}, []string{"spiffe://td/a"}},
	{"ID-07", identity.FaultTrustDomainCase, []string{"spiffe://TD/a", "spiffe://tD/a", "spiffe://td.Example"}, []string{"spiffe://td/a", "spiffe://td.example"}},
	{"ID-08", identity.FaultTrustDomainChars,
		[]string{"spiffe://t~d/a", "spiffe://t d/a", "spiffe://tд/a", "spiffe://[::1]/a", "spiffe://*/a", "spiffe://t\x00d/a", "spiffe://t\\d/a"},
		[]string{"spiffe://a-z_0.9/a"}},
	{"ID-09", identity.FaultPercent, []string{"spiffe://t%64/a", "spiffe://%74d"}, []string{"spiffe://td/a"}},
	{"ID-11", identity.FaultPercent, []string{"spiffe://td/%61", "spiffe://td/a%2fb", "spiffe://td/a%00", "spiffe://td/%"}, []string{"spiffe://td/a"}},
	{"ID-12", identity.FaultEmptySegment, []string{"spiffe://td//a", "spiffe://td/a//b", "spiffe://td//"}, []string{"spiffe://td/a/b"}},
	{"ID-13", identity.FaultDotSegment,
		[]string{"spiffe://td/a/../b", "spiffe://td/.", "spiffe://td/..", "spiffe://td/./a", "spiffe://td/a/.", "spiffe://td/../"},
		[]string{"spiffe://td/...", "spiffe://td/.a", "spiffe://td/a.", "spiffe://td/..a/b"}},
	{"ID-14", identity.FaultTrailingSlash, []string{"spiffe://td/", "spiffe://td/a/"}, []string{"spiffe://td", "spiffe://td/a"}},
	{"ID-15", identity.FaultPathChars,
		[]string{"spiffe://td/~", "spiffe://td/+", "spiffe://td/@", "spiffe://td/:", "spiffe://td/=", "spiffe://td/,", "spiffe://td/!", "spiffe://td/ ",
			"spiffe://td/\t", "spiffe://td/\x00", "spiffe://td/é", "spiffe://td/\xff", "spiffe://td/a;b", "spiffe://td/*", "spiffe://td/a\\b", "spiffe://td/a\n"},
		[]string{"spiffe://td/AZaz09.-_"}},
	{"ID-17", identity.FaultTooLong, []string{idOf(2049), idOf(1 << 20)}, []string{idOf(2048)}},
	{"ID-18", identity.FaultTrustDomainLength,
		[]string{"spiffe://" + strings.Repeat("t", 256), "spiffe://" + strings.Repeat("t", 256) + "/a"},
		[]string{"spiffe://" + strings.Repeat("t", 255), "spiffe://" + strings.Repeat("t", 255) + "/a"}},
	{"ID-20", identity.FaultScheme, []string{"SPIFFE://td/a", "Spiffe://td/a"}, []string{"spiffe://td/a"}},
}

func TestIDRows(t *testing.T) {
	for _, r := range idRows {
		t.Run(r.row+"/refused", func(t *testing.T) {
			for _, text := range r.bad {
				id, err := identity.ParseID(text)
				if !id.IsZero() || identity.FaultOf(err) != r.fault || identity.CodeOf(err) != identity.Invalid {
					t.Errorf("ParseID(%q): got %q, error %v; want fault %q", identity.Clip(text), id, err, r.fault)
				}
			}
		})
		t.Run(r.row+"/twin", func(t *testing.T) {
			for _, text := range r.twins {
				mustParse(t, text)
			}
		})
	}
}

func mustParse(t *testing.T, text string) spiffeid.ID {
	t.Helper()
	id, err := identity.ParseID(text)
	if err != nil || id.String() != text {
		t.Fatalf("ParseID(%q): got %q, error %v", identity.Clip(text), id, err)
	}
	return id
}

// Names that look like addresses or host names are names like any other, and
// nothing looks them up.
func TestIDRowNames(t *testing.T) {
	t.Run("ID-10/accepted", func(t *testing.T) {
		for _, name := range []string{"10.0.0.1", "a_b", "-", "999.1.1.1", "localhost", ".", "a..b", "xn--a-7ka", "0"} {
			if got := mustParse(t, "spiffe://"+name+"/a").TrustDomain().Name(); got != name {
				t.Errorf("trust domain of spiffe://%s/a is %q", name, got)
			}
		}
	})
	t.Run("ID-16/accepted", func(t *testing.T) {
		text := idOf(identity.MaxIDBytes)
		if id := mustParse(t, text); len(id.String()) != 2048 {
			t.Errorf("an ID of 2048 bytes has become %d long", len(id.String()))
		}
	})
	t.Run("ID-19/refused", func(t *testing.T) {
		if mustParse(t, "spiffe://td/Svc") == mustParse(t, "spiffe://td/svc") {
			t.Error("paths that differ in case are equal")
		}
	})
	t.Run("ID-19/twin", func(t *testing.T) {
		if one, other := mustParse(t, "spiffe://td/svc"), mustParse(t, "spiffe://td/svc"); one != other {
			t.Error("equal IDs differ")
		}
	})
}

func TestParseWorkloadID(t *testing.T) {
	if _, err := identity.ParseWorkloadID("spiffe://td"); identity.FaultOf(err) != identity.FaultNoPath {
		t.Errorf("the ID of a trust domain: error %v", err)
	}
	if _, err := identity.ParseWorkloadID("spiffe://td/"); identity.FaultOf(err) != identity.FaultTrailingSlash {
		t.Errorf("a trailing slash: error %v", err)
	}
	if id, err := identity.ParseWorkloadID("spiffe://td/a"); err != nil || id.Path() != "/a" {
		t.Errorf("got %s, error %v", id, err)
	}
}

func TestParseTrustDomain(t *testing.T) {
	for _, bad := range []string{"", "spiffe://td", "td/a", "/", "TD", "td:1", "u@td", "td?", "td#", "t%64", strings.Repeat("t", 256)} {
		if td, err := identity.ParseTrustDomain(bad); err == nil {
			t.Errorf("ParseTrustDomain(%q) = %q", identity.Clip(bad), td)
		}
	}
	if td, err := identity.ParseTrustDomain("dev.icp.internal"); err != nil || td.Name() != "dev.icp.internal" {
		t.Errorf("got %q, error %v", td, err)
	}
}

// Every fault says in words what is wrong, and keeps hostile input small.
func TestFaultMessages(t *testing.T) {
	for _, r := range idRows {
		_, err := identity.ParseID(r.bad[0])
		message := identity.MessageOf(err)
		if len(message) > 400 || strings.HasSuffix(message, ": "+string(r.fault)) {
			t.Errorf("%s: message %q", r.row, message)
		}
	}
}

// FuzzParseID: nothing but bytes of the standard's alphabet gets through, and
// what gets through is what go-spiffe reads too.
func FuzzParseID(f *testing.F) {
	for _, r := range idRows {
		for _, text := range append(r.bad, r.twins...) {
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := identity.ParseID(text)
		if err != nil {
			if !id.IsZero() || identity.FaultOf(err) == "" {
				t.Fatalf("ParseID(%q): %q, %v", text, id, err)
			}
			return
		}
		reread, err := spiffeid.FromString(text)
		if err != nil || reread != id || id.String() != text {
			t.Fatalf("ParseID(%q) = %q, but go-spiffe: %q, %v", text, id, reread, err)
		}
		slowCheckID(t, text)
	})
}

// slowCheckID says again, without the code under test, what an ID may look like.
func slowCheckID(t *testing.T, text string) {
	t.Helper()
	segments := strings.Split(strings.TrimPrefix(text, "spiffe://"), "/")
	domain, path := segments[0], segments[1:]
	const lower, upper = "abcdefghijklmnopqrstuvwxyz0123456789.-_", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	if len(text) > 2048 || domain == "" || len(domain) > 255 || strings.Trim(domain, lower) != "" {
		t.Fatalf("%q has the trust domain %q", text, domain)
	}
	for _, segment := range path {
		if segment == "" || segment == "." || segment == ".." || strings.Trim(segment, lower+upper) != "" {
			t.Fatalf("%q has the segment %q", text, segment)
		}
	}
}

func BenchmarkParseID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := identity.ParseID("spiffe://dev.icp.internal/ai-agents/sales-bot"); err != nil {
			b.Fatal(err)
		}
	}
}
