package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/authsec-ai/icp/bench/internal/target"
)

// judge shows that each gateway checks what it is said to check, no less and no
// more, and that all use the same cipher: a figure of one that does not says
// nothing.
func (b *battery) judge() error {
	trials, err := b.trials()
	if err != nil {
		return err
	}
	cipher := ""
	for _, g := range b.gateways {
		for _, c := range trials {
			got, err := b.ask(g, c.svid, c.body)
			if want := c.want(g); got.status != want && (want != refused || got.status == http.StatusOK) {
				return fmt.Errorf("%s, asked by %s, answers %d %q (%v), not %d", g.name, c.who, got.status, got.said, err, want)
			}
			if got.status != http.StatusOK {
				continue
			}
			if cipher == "" {
				cipher = got.cipher
			}
			if got.cipher != cipher {
				return fmt.Errorf("%s uses %s, another gateway %s", g.name, got.cipher, cipher)
			}
		}
	}
	return nil
}

// trial is a request and the status that a gateway has to answer with.
type trial struct {
	who  string
	svid *x509svid.SVID
	body string // "" asks for what is plain
	want func(runningGateway) int
}

// refused is any end but 200: in the handshake, too.
const refused = 0

func (b *battery) trials() ([]trial, error) {
	caller, err := x509svid.Load(b.caller.Cert, b.caller.Key)
	if err != nil {
		return nil, err
	}
	stranger, err := x509svid.Load(b.stranger.Cert, b.stranger.Key)
	if err != nil {
		return nil, err
	}
	impostor, err := selfSigned(caller.ID)
	if err != nil {
		return nil, err
	}
	always := func(status int) func(runningGateway) int { return func(runningGateway) int { return status } }
	forbiddenIf := func(checks bool) int {
		if checks {
			return http.StatusForbidden
		}
		return http.StatusOK
	}
	right, wrong := chatBody(chatBytes, allowedModel), chatBody(chatBytes, "model-2")
	return []trial{
		{"one with the caller's ID by another authority", impostor, "", always(refused)},
		{"another ID of the trust domain", stranger, "", func(g runningGateway) int { return forbiddenIf(g.checksID) }},
		{"the caller with another model", caller, wrong, func(g runningGateway) int { return forbiddenIf(g.readsModel) }},
		{"the caller with its model", caller, right, always(http.StatusOK)},
		{"the caller", caller, "", always(http.StatusOK)},
	}, nil
}

// answer is what a gateway said; the status is 0 if it did not.
type answer struct {
	status       int
	said, cipher string
}

// ask asks once on a new connection.
func (b *battery) ask(g runningGateway, as *x509svid.SVID, body string) (answer, error) {
	id, err := spiffeid.FromString(g.id())
	if err != nil {
		return answer{}, err
	}
	bundle, err := x509bundle.Load(id.TrustDomain(), b.caller.Bundle)
	if err != nil {
		return answer{}, err
	}
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		TLSClientConfig: tlsconfig.MTLSClientConfig(as, bundle, tlsconfig.AuthorizeID(id)), DisableKeepAlives: true,
	}}
	method, path := http.MethodGet, target.Plain
	if body != "" {
		method, path = http.MethodPost, target.Chat
	}
	req, err := http.NewRequestWithContext(b.t.Context(), method, "https://"+g.address+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 512))
	return answer{resp.StatusCode, string(said), tls.CipherSuiteName(resp.TLS.CipherSuite)}, err
}

// selfSigned makes an SVID that is its own authority.
func selfSigned(id spiffeid.ID) (*x509svid.SVID, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := newLeaf(id.URL())
	template.SerialNumber = big.NewInt(1)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}, err
}
