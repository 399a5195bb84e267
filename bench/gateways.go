package main

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"text/template"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/authsec-ai/icp/bench/internal/meter"
	"github.com/authsec-ai/icp/bench/internal/target"
	"github.com/authsec-ai/icp/e2e/stage"
)

// gateway is a program that is measured, and what it does for each request.
type gateway struct {
	name       string
	path       string // of its SPIFFE ID
	checks     string // in words
	checksID   bool   // lets one SPIFFE ID in, not the whole trust domain
	readsModel bool   // lets one model be asked for
	onlyPosts  bool   // is measured under POSTs alone
	// openSSL sends tickets to all who connect, wanted or not, so it does on a
	// port for those who resume.
	openSSL bool
	// start runs it at a site and gives its version.
	start func(s *site) (*stage.Process, string)
}

// gateways are those that take turns.
func gateways(t stage.T) []gateway {
	return []gateway{ours(), nginx(t), haproxy(t), haproxyReading(t), envoyProxy(), plainProxy()}
}

// site is what a gateway is to know: the fields are for the configuration files
// in the folder peers.
type site struct {
	*host
	identityFiles        // its own
	socket        string // of the agent

	Name       string
	Dir        string
	Port       int // to listen on, on loopback
	TicketPort int // the same with tickets
	APIPort    int // of the API behind, on loopback
	Cores      int
	ReadsModel bool
	CallerID   string // SPIFFE ID that may call
	Model      string // that may be asked for
	SSE        string // how paths of streams begin
}

// Listeners are those of a gateway with openSSL.
func (s *site) Listeners() []listener { return []listener{{s.Port, false}, {s.TicketPort, true}} }

type listener struct {
	Port    int
	Tickets bool
}

func (s *site) api() string  { return loopback(s.APIPort) }
func (s *site) addr() string { return loopback(s.Port) }

func (s *site) listens() error { return stage.Dial(s.addr()) }

// fillIn gives a configuration with its blanks filled in.
func (s *site) fillIn(text string) []byte {
	var filled strings.Builder
	if err := template.Must(template.New("").Parse(text)).Execute(&filled, s); err != nil {
		s.t.Fatalf("fill in a configuration: %v", err)
	}
	return []byte(filled.String())
}

// The workloads of this section, by the paths of their SPIFFE IDs.
const (
	oursPath     = "/agentauth-proxy"
	peerPath     = "/peer"     // each of the others
	callerPath   = "/caller"   // the load generator
	strangerPath = "/stranger" // may not call
)

const allowedModel = "model-1"

// battery is the gateways that run, and who calls them.
type battery struct {
	*host
	gateways         []runningGateway
	caller, stranger identityFiles
}

type runningGateway struct {
	gateway
	pid     int
	version string
	address string
	resumes string // address for those who resume sessions
	idle    meter.Memory
}

// id is the SPIFFE ID that it shows.
func (g runningGateway) id() string { return workloadID(g.path) }

// startGateways runs server, agent, the API and the gateways in front of it.
func (h *host) startGateways() *battery {
	all := gateways(h.t)
	c, n := h.startNode()
	for path, selector := range map[string]string{
		callerPath: ownSelector(), strangerPath: ownSelector(), peerPath: ownSelector(), oursPath: "unix:path:" + filepath.Join(h.bin, oursName),
	} {
		if _, err := c.entry(h.t.Context(), nodeName, path, selector); err != nil {
			h.t.Fatalf("register %s: %v", path, err)
		}
	}
	b := &battery{host: h, caller: h.identity(n, callerPath), stranger: h.identity(n, strangerPath)}
	base := site{
		host: h, identityFiles: h.identity(n, peerPath), socket: n.socket, Dir: h.dir, APIPort: h.startTarget(), Cores: runtime.NumCPU(),
		CallerID: workloadID(callerPath), Model: allowedModel, SSE: target.SSE,
	}
	for _, g := range all {
		b.start(g, base)
	}
	return b
}

func (b *battery) start(g gateway, s site) {
	s.Name, s.Port, s.ReadsModel = g.name, stage.FreePort(b.t), g.readsModel
	if s.TicketPort = s.Port; g.openSSL {
		s.TicketPort = stage.FreePort(b.t)
	}
	p, version := g.start(&s)
	b.gateways = append(b.gateways, runningGateway{
		gateway: g, pid: p.PID, version: version, address: loopback(s.Port), resumes: loopback(s.TicketPort), idle: b.resident(p),
	})
}

// startTarget runs the API in a process of its own and gives its port.
func (h *host) startTarget() int {
	port := stage.FreePort(h.t)
	addr := loopback(port)
	h.self("target", targetCommand, target.Config{Listen: addr}, answers("http://"+addr+target.Plain))
	return port
}

// identityFiles are an SVID and its bundle, PEM, for programs that read files.
type identityFiles struct{ Cert, Key, Pair, Bundle string } // Pair is Cert and Key

// identity takes the SVID with the path from the agent, once it is there.
func (h *host) identity(n *node, path string) identityFiles {
	var files identityFiles
	n.WaitReady(h.t, patience, func() error {
		all, err := workloadapi.FetchX509Context(h.t.Context(), workloadapi.WithAddr(n.socket))
		if err != nil {
			return err
		}
		for _, svid := range all.SVIDs {
			if svid.ID.Path() != path {
				continue
			}
			bundle, err := all.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
			if err != nil {
				return err
			}
			files = h.writeIdentity(filepath.Base(path), svid, bundle)
			return nil
		}
		return fmt.Errorf("the agent has no SVID with the path %s", path)
	})
	return files
}

func (h *host) writeIdentity(name string, svid *x509svid.SVID, bundle *x509bundle.Bundle) identityFiles {
	cert, key, err := svid.Marshal()
	if err != nil {
		h.t.Fatalf("encode an SVID: %v", err)
	}
	anchors, err := bundle.Marshal()
	if err != nil {
		h.t.Fatalf("encode a bundle: %v", err)
	}
	return identityFiles{
		Cert: h.write(name+".crt", cert), Key: h.write(name+".key", key),
		Pair: h.write(name+".pem", append(cert, key...)), Bundle: h.write(name+".bundle", anchors),
	}
}
