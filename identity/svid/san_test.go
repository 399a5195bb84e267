package svid

import (
	"encoding/asn1"
	"testing"

	"github.com/authsec-ai/icp/identity"
)

// FuzzReadURIs holds the reader of raw SAN bytes against encoding/asn1, which
// reads them in another way.
func FuzzReadURIs(f *testing.F) {
	const uri = "\x86\x16spiffe://a.example/web"
	for _, seed := range []string{
		"\x30\x18" + uri, "\x30\x30" + uri + uri, "\x30\x1d\x82\x03web" + uri, "\x30\x00", "\x30\x80" + uri + "\x00\x00", "\x30\x18" + uri + "\x05\x00",
		"\x30\x18\xa6\x16spiffe://a.example/web", "\x30\x02\x86\x00", "\x30\x81\x18" + uri, "\x30\x19\x86\x81\x16spiffe://a.example/web", "", "\x30",
		"\x30\x06\x87\x04\x7f\x00\x00\x01", "\x30\x05\x9f\x26\x02ab", "\x31\x18" + uri, "\x30\x1f\xa0\x05\x06\x01\x01\xa0\x00" + uri,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, san []byte) {
		uris, err := readURIs(san)
		if err != nil {
			if uris != nil || ReasonOf(err) != BadSAN {
				t.Fatalf("%x: %q, %v", san, uris, err)
			}
			return
		}
		want, err := slowURIs(san)
		if err != nil || len(want) != len(uris) {
			t.Fatalf("%x: got %q; encoding/asn1 gives %q, %v", san, uris, want, err)
		}
		for i := range uris {
			if string(uris[i]) != want[i] {
				t.Fatalf("%x: got %q, want %q", san, uris, want)
			}
		}
		id, err := leafID(&rawCert{extensions: []extension{{oid: []byte(oidSAN), value: san}}})
		if err == nil && (len(want) != 1 || id.String() != want[0]) {
			t.Fatalf("%x: ID %q out of %q", san, id, want)
		}
		if err == nil {
			if _, err := identity.ParseID(want[0]); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func slowURIs(san []byte) ([]string, error) {
	var names []asn1.RawValue
	rest, err := asn1.Unmarshal(san, &names)
	if err != nil || len(rest) > 0 {
		return nil, asn1.SyntaxError{Msg: "not one sequence"}
	}
	var uris []string
	for _, n := range names {
		if n.Class == asn1.ClassContextSpecific && n.Tag == 6 && !n.IsCompound {
			uris = append(uris, string(n.Bytes))
		}
	}
	return uris, nil
}
