package conform

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/strict"
)

func TestSelect(t *testing.T) {
	for _, c := range []struct {
		names []string
		want  int // rows; 0 for an error
	}{
		{nil, len(Rows())}, {[]string{"WLEP-05"}, 1}, {[]string{"WLEP-05", "WLEP"}, 9}, {[]string{"JWT", "TDB"}, 12},
		{[]string{"WLEP-99"}, 0}, {[]string{"wlep"}, 0}, {[]string{""}, 0},
	} {
		rows, err := Select(c.names)
		if len(rows) != c.want || (err == nil) != (c.want > 0) {
			t.Errorf("%q chooses %d rows, %v; want %d", c.names, len(rows), err, c.want)
		}
	}
}

func TestRowsAreWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, row := range Rows() {
		if seen[row.ID] {
			t.Errorf("%s is there twice", row.ID)
		}
		seen[row.ID] = true
		if row.Wants == "" || row.check == nil || (row.Level != Must && row.Level != Should && row.Level != May) {
			t.Errorf("%s is not whole: %+v", row.ID, row)
		}
	}
}

// TestServed judges answers to malformed paths, which the built-in server can't
// give.
func TestServed(t *testing.T) {
	for answer, want := range map[socket.Answer]bool{
		{Status: "200", GRPCStatus: "0"}:      true,
		{Status: "200", GRPCStatus: "7"}:      true, // it came as far as a decision
		{Status: "200"}:                       true, // a message without an end
		{Status: "200", GRPCStatus: "12"}:     false,
		{Status: "404"}:                       false,
		{Refused: "the stream was reset: NO"}: false,
	} {
		if served(answer) != want {
			t.Errorf("%s counts as served: %t", answer, !want)
		}
	}
}

// TestHostileTokens checks that each has a name of its own, and is no good token
// for its own audience.
func TestHostileTokens(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signES256(encoded(map[string]any{"alg": "ES256", "kid": "a"})+"."+
		encoded(map[string]any{"sub": "spiffe://td/a", "aud": []string{socket.Audience}, "exp": 4000000000}), key)
	if err != nil {
		t.Fatal(err)
	}
	token, err := strict.DecodeToken(compact)
	if err != nil {
		t.Fatal(err)
	}
	if err := token.Verify(key.Public()); err != nil {
		t.Fatalf("the good token: %v", err)
	}
	tokens, err := hostileTokens(material{compact: compact, token: token, public: key.Public(), x509Key: key})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, bad := range tokens {
		if seen[bad.name] {
			t.Errorf("%s is there twice", bad.name)
		}
		seen[bad.name] = true
		if bad.token == compact && bad.audience == socket.Audience {
			t.Errorf("%s is the good token", bad.name)
		}
	}
	if len(tokens) < 100 {
		t.Errorf("there are %d of them", len(tokens))
	}
}
