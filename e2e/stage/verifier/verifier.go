// Package verifier asks TLS servers that know nothing of SPIFFE whether they let
// a client certificate in.
//
//	nginx := verifier.Nginx(t).Start(t, anchors)
//	if err := nginx.Ask(t, chain); err != nil {
//		// refused; the error has nginx's own reason
//	}
//
// A verdict is what the program itself says of a TLS 1.3 handshake with it. An
// error is a refusal and nothing else: whatever keeps a program from deciding
// fails the test.
package verifier

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Verifier is a program that verifies certificate chains.
type Verifier struct {
	Name    string // "nginx"
	Version string // as it says itself: "1.22.1"

	start func(stage.T, []*x509.Certificate) *Running
}

// All gives every verifier.
func All(t stage.T) []Verifier {
	t.Helper()
	return []Verifier{Nginx(t), HAProxy(t), OpenSSL(t), GnuTLS(t), Java(t), Python(t), Pyca(t), Postgres(t)}
}

// Start has the program serve, and demand client certificates that chain to one
// of anchors. It ends when the test does.
func (v Verifier) Start(t stage.T, anchors []*x509.Certificate) *Running {
	t.Helper()
	r := v.start(t, anchors)
	r.name = v.Name
	return r
}

// Verify asks about one chain, as Ask does, a program that runs for this alone.
func (v Verifier) Verify(t stage.T, anchors []*x509.Certificate, chain tls.Certificate) error {
	t.Helper()
	r := v.Start(t, anchors)
	defer r.Stop()
	return r.Ask(t, chain)
}

// Running is a verifier at work, with its anchors.
type Running struct {
	name              string
	show              func(stage.T, presented) reply
	accepted, refused string // how it says so; see rules
	logFile           string
	stop              func()

	mu sync.Mutex // one question at a time: some programs name no client in their log
}

// reply is what a client got for its chain.
type reply struct {
	text string // sent by the server after the handshake
	err  error  // that ended the connection, or nil
	port int    // the client's
}

// Stop ends the program before the test does. It may be called more than once.
func (r *Running) Stop() { r.stop() }

// patience bounds how long a verifier may take to start, and to decide.
const patience = time.Minute

// Ask connects and shows exactly this chain, leaf first, the certificates between
// leaf and anchor with it; an empty one shows no certificate. Nil says that the
// program accepted it and answered after the handshake. An error is its refusal,
// in its own words.
func (r *Running) Ask(t stage.T, chain tls.Certificate) error {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	before := -1 // the length of the log when the program asked for the chain: it was done with earlier ones then
	reply := r.show(t, presented{chain, func() { before = len(r.log(t)) }})
	if before < 0 {
		t.Fatalf("%s did not ask for a certificate: the client got %q, %v", r.name, reply.text, reply.err)
	}
	accepted, refused := compile(r.accepted, reply.port), compile(r.refused, reply.port)
	var verdict error
	stage.Eventually(t, patience, func() error {
		said := reply.text
		if said == "" { // whom it answers it has not refused in its log alone
			said = r.log(t)[before:]
		}
		yes, no := accepted.MatchString(reply.text), refused.FindStringSubmatch(said)
		if yes == (no != nil) {
			return fmt.Errorf("%s does not decide: it says %q, the client %v", r.name, said, reply.err)
		}
		if no != nil {
			verdict = fmt.Errorf("%s: %s", r.name, reason(no[1:]))
		}
		return nil
	})
	return verdict
}

// reason joins the groups that have matched.
func reason(groups []string) string {
	return strings.Join(slices.DeleteFunc(groups, func(g string) bool { return g == "" }), ": ")
}

func (r *Running) log(t stage.T) string {
	t.Helper()
	raw, err := os.ReadFile(r.logFile)
	if err != nil {
		t.Fatalf("read the log of %s: %v", r.name, err)
	}
	return string(raw)
}

// compile makes a pattern for one client; PORT in it is the client's port. Lines
// of a pattern end with \n, so that a line is not read before it is whole.
func compile(pattern string, port int) *regexp.Regexp {
	return regexp.MustCompile("(?m)" + strings.ReplaceAll(pattern, "PORT", fmt.Sprint(port)))
}

// version finds a version number in what a program prints.
func version(t stage.T, path string, args ...string) string {
	t.Helper()
	out := stage.Output(t, exec.Command(path, args...))
	found := regexp.MustCompile(`\d+(\.\d+)+`).FindString(out)
	if found == "" {
		t.Fatalf("%s %s says no version: %q", path, strings.Join(args, " "), out)
	}
	return found
}
