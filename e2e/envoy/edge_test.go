package envoy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/agent/agenttest"
	"github.com/authsec-ai/icp/e2e/stage"
)

const patience = 30 * time.Second

// onEach runs a test on every plane.
func onEach(t *testing.T, test func(*testing.T, func(*testing.T) plane)) {
	for name, start := range map[string]func(*testing.T) plane{"agent alone": newMemory, "icp dev": newLive} {
		t.Run(name, func(t *testing.T) { test(t, start) })
	}
}

// TestEdge runs one edge's life in every way of asking.
func TestEdge(t *testing.T) {
	onEach(t, func(t *testing.T, start func(*testing.T) plane) { everyWay(t, start(t)) })
}

func everyWay(t *testing.T, p plane) {
	for _, way := range ways(p.EnvoyID()) {
		t.Run(way.name, func(t *testing.T) { edgeLife(t, p, way) })
	}
}

// way is how an Envoy asks for its secrets.
type way struct{ name, api, certificate, validation string }

// ways gives every way of asking for the identity id.
func ways(id spiffeid.ID) []way {
	return []way{
		{"default names, state of the world", "GRPC", "default", "ROOTCA"},
		{"IDs, incremental", "DELTA_GRPC", id.String(), id.TrustDomain().IDString()},
		{"all trust domains, incremental", "DELTA_GRPC", "default", "ALL"},
	}
}

// edgeLife is the story that every plane has to carry.
func edgeLife(t *testing.T, p plane, w way) {
	client := p.SVID(t, "/client")
	e := startEdge(t, envoyUID(), settings{
		Socket: p.Socket(), API: w.api, CertificateName: w.certificate, ValidationName: w.validation, ClientID: client.ID,
	})
	config := clientConfig(client, p.Bundle(t), p.EnvoyID())
	e.WaitReady(t, patience, func() error { return get(e, config) })

	t.Run("SD-1", func(t *testing.T) { refusals(t, e, p, config) })
	t.Run("SD-2", func(t *testing.T) { rotations(t, e, p, config) })
}

// refusals tries clients that must not get in, each refused for its own reason.
func refusals(t *testing.T, e *edge, p plane, good *tls.Config) {
	forger := agenttest.NewAuthority(t, p.EnvoyID().TrustDomain().Name())
	foreign := agenttest.NewAuthority(t, "foreign.test")
	cases := []struct {
		name    string
		config  *tls.Config
		counter string
	}{
		{"another ID of the trust domain", clientConfig(p.SVID(t, "/intruder"), p.Bundle(t), p.EnvoyID()), "ssl.fail_verify_san"},
		{"the right ID by a stranger's authority", clientConfig(forger.Issue(e.ClientID), p.Bundle(t), p.EnvoyID()), "ssl.fail_verify_error"},
		{"a trust domain without bundle", clientConfig(foreign.Issue(
			spiffeid.RequireFromPath(foreign.TrustDomain, "/client")), p.Bundle(t), p.EnvoyID()), "ssl.fail_verify_error"},
		{"no certificate", withoutCertificate(good), "ssl.fail_verify_no_cert"},
	}
	for _, c := range cases {
		t.Run("refused/"+c.name, func(t *testing.T) {
			before := e.Stat(t, c.counter)
			if err := get(e, c.config); err == nil {
				t.Fatal("the client was let in")
			}
			stage.Eventually(t, patience, func() error { // Envoy answers before it counts
				if after := e.Stat(t, c.counter); after != before+1 {
					return fmt.Errorf("%s went from %d to %d, want one more: refused for another reason", c.counter, before, after)
				}
				return nil
			})
		})
	}
	t.Run("twin", func(t *testing.T) {
		if err := get(e, good); err != nil {
			t.Errorf("the right client: %v", err)
		}
	})
}

func withoutCertificate(config *tls.Config) *tls.Config {
	bare := config.Clone()
	bare.GetClientCertificate = nil
	return bare
}

// rotations rotates three times under constant new connections and one that
// stays open.
func rotations(t *testing.T, e *edge, p plane, config *tls.Config) {
	started := e.Stat(t, "server.uptime")
	ctx, stop := context.WithCancel(t.Context())
	kept := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	fresh := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	defer kept.CloseIdleConnections()
	load := []*traffic{send(ctx, e, kept), send(ctx, e, fresh)}
	for i := range 3 {
		before, err := e.Serial()
		if err != nil {
			t.Fatal(err)
		}
		seen := load[1].done.Load()
		p.Rotate(t)
		stage.Eventually(t, patience, func() error {
			after, err := e.Serial()
			if err == nil && after == before {
				err = fmt.Errorf("rotation %d: Envoy still presents serial %s", i+1, before)
			}
			return err
		})
		stage.Eventually(t, patience, func() error {
			if load[1].done.Load() < seen+10 {
				return fmt.Errorf("only %d requests so far", load[1].done.Load())
			}
			return nil
		})
	}
	stop()
	for _, each := range load {
		<-each.ended
		if err := each.failure; err != nil {
			t.Errorf("after %d requests: %v", each.done.Load(), err)
		}
	}
	if now := e.Stat(t, "server.uptime"); now < started {
		t.Errorf("envoy has restarted: uptime went from %d to %d s", started, now)
	}
	if refused := e.Stat(t, "update_rejected"); refused != 0 {
		t.Errorf("envoy refused %d answers", refused)
	}
	t.Logf("3 rotations, %d requests on one connection and %d on new ones, no error", load[0].done.Load(), load[1].done.Load())
}

// traffic is a client that asks again and again until its first failure.
type traffic struct {
	done    atomic.Int64
	ended   chan struct{}
	failure error // read after ended
}

func send(ctx context.Context, e *edge, client *http.Client) *traffic {
	tr := &traffic{ended: make(chan struct{})}
	go func() {
		defer close(tr.ended)
		for ctx.Err() == nil {
			if tr.failure = ask(e, client); tr.failure != nil {
				return
			}
			tr.done.Add(1)
		}
	}()
	return tr
}

func ask(e *edge, client *http.Client) error {
	resp, err := client.Get("https://" + e.addr() + "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the edge answers %s", resp.Status)
	}
	return nil
}

// get asks once on a new connection.
func get(e *edge, config *tls.Config) error {
	return ask(e, &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true},
	})
}

// TestHeldIdentity has an Envoy ask for an identity before it is issued.
func TestHeldIdentity(t *testing.T) {
	onEach(t, func(t *testing.T, start func(*testing.T) plane) {
		for _, api := range []string{"GRPC", "DELTA_GRPC"} {
			t.Run(api, func(t *testing.T) { heldIdentity(t, start(t), api) })
		}
	})
}

func heldIdentity(t *testing.T, p plane, api string) {
	later := spiffeid.RequireFromPath(p.EnvoyID().TrustDomain(), "/later")
	client := p.SVID(t, "/client")
	e := startEdge(t, envoyUID(), settings{
		Socket: p.Socket(), API: api, CertificateName: later.String(), ValidationName: "ROOTCA", ClientID: client.ID,
	})
	stage.Eventually(t, patience, func() error { // the bundle comes although the identity is held
		if n := e.Stat(t, "sds.ROOTCA.update_success"); n == 0 {
			return fmt.Errorf("ROOTCA has come %d times", n)
		}
		return nil
	})
	if err := stage.Dial(e.addr()); err == nil {
		t.Fatal("the listener is open without a certificate")
	}
	p.Entitle(t, later)
	config := clientConfig(client, p.Bundle(t), later)
	e.WaitReady(t, patience, func() error { return get(e, config) })
}

// TestWrongUser has an Envoy ask that runs as a user without identity.
func TestWrongUser(t *testing.T) {
	onEach(t, func(t *testing.T, start func(*testing.T) plane) {
		t.Run("SD-3", func(t *testing.T) { wrongUser(t, start(t)) })
	})
}

func wrongUser(t *testing.T, p plane) {
	if os.Getuid() != 0 {
		t.Fatal("this test starts Envoy as another user: run it as root")
	}
	client := p.SVID(t, "/client")
	run := func(t *testing.T, uid uint32) (*edge, func() error) {
		e := startEdge(t, uid, settings{
			Socket: p.Socket(), API: "GRPC", CertificateName: "default", ValidationName: "ROOTCA", ClientID: client.ID,
		})
		return e, func() error { return get(e, clientConfig(client, p.Bundle(t), p.EnvoyID())) }
	}
	t.Run("refused", func(t *testing.T) {
		e, get := run(t, stranger)
		stage.Eventually(t, patience, func() error { // it was told so at least twice
			if n := e.Stat(t, "sds.default.update_failure"); n < 2 {
				return fmt.Errorf("the certificate was refused %d times", n)
			}
			return nil
		})
		if serial, err := e.Serial(); err == nil {
			t.Errorf("envoy has the certificate %s", serial)
		}
		if n := e.Stat(t, "sds.ROOTCA.update_success"); n != 0 {
			t.Errorf("envoy has got a bundle %d times", n)
		}
		if get() == nil {
			t.Error("the edge serves")
		}
	})
	t.Run("twin", func(t *testing.T) {
		e, get := run(t, envoyUID())
		e.WaitReady(t, patience, get)
	})
}
