package chaos

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ObserverCommand is the first argument of a program that is to call Observe.
const ObserverCommand = "observe"

// watch is what an observer is told, as one line of JSON.
type watch struct {
	UID      int
	Seed     uint64
	Streams  int
	Socket   string // as the Workload API spells it
	ProxyURL string
	ProxyID  string
}

// observer is a workload: a process of some user that follows the Workload API,
// fetches tokens and uses the proxy, and says what it got.
type observer struct {
	watch
	out  chan Event
	pool pool
}

// Observe is the whole of an observer's process. It reads what to watch from
// in, writes Events to out as lines of JSON, and ends when in does.
func Observe(in io.Reader, out io.Writer) error {
	o := &observer{out: make(chan Event, 1024)}
	told := json.NewDecoder(in)
	if err := told.Decode(&o.watch); err != nil {
		return fmt.Errorf("read what to watch: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, in) // its end is all that matters
	}()
	written := make(chan error, 1)
	go func() { written <- writeAll(out, o.out) }()
	o.run(ctx)
	close(o.out)
	return <-written
}

func writeAll(out io.Writer, events <-chan Event) error {
	var failed error
	lines := json.NewEncoder(out)
	for e := range events {
		if failed == nil {
			failed = lines.Encode(e)
		}
	}
	return failed
}

func (o *observer) run(ctx context.Context) {
	var group sync.WaitGroup
	for n := range o.Streams {
		group.Go(func() { o.follow(ctx, fmt.Sprintf("%d.%d", o.UID, n)) })
	}
	group.Go(func() { o.fetchTokens(ctx, rand.New(rand.NewPCG(o.Seed, uint64(o.UID)<<1))) })
	group.Go(func() { o.callProxy(ctx, rand.New(rand.NewPCG(o.Seed, uint64(o.UID)<<1|1))) })
	group.Wait()
}

// dial gives a client that comes back soon after the agent does.
func (o *observer) dial() (workload.SpiffeWorkloadAPIClient, func(), error) {
	quick := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}
	conn, err := grpc.NewClient(o.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}))
	if err != nil {
		return nil, nil, err
	}
	return workload.NewSpiffeWorkloadAPIClient(conn), func() { _ = conn.Close() }, nil
}

// outgoing adds the header that the Workload API asks for.
func outgoing(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}

// again is how long an observer waits before it asks again.
const again = 50 * time.Millisecond

// follow keeps one stream open, on a connection of its own.
func (o *observer) follow(ctx context.Context, name string) {
	client, closeConn, err := o.dial()
	if err != nil {
		o.out <- Event{Op: Close, Stream: name, Detail: err.Error()}
		return
	}
	defer closeConn()
	for ctx.Err() == nil {
		o.followOnce(ctx, client, name)
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

// followOnce notes one stream. That the agent is away is no event.
func (o *observer) followOnce(ctx context.Context, client workload.SpiffeWorkloadAPIClient, name string) {
	e := Event{Op: Open, Start: time.Now(), UID: o.UID, Stream: name}
	stream, err := client.FetchX509SVID(outgoing(ctx), &workload.X509SVIDRequest{})
	var before []SVID
	for err == nil {
		var message *workload.X509SVIDResponse
		if message, err = stream.Recv(); err != nil {
			break
		}
		now := o.read(message)
		e.End, e.Outcome = time.Now(), OK
		e.Added, e.Removed = difference(now, before), difference(before, now)
		o.out <- e
		before = now
		e = Event{Op: Serve, Start: e.End, UID: o.UID, Stream: name}
	}
	e.End, e.Outcome, e.Detail = time.Now(), Refused, status.Code(err).String()
	switch {
	case e.Op == Serve:
		e.Op = Close
		o.out <- e
	case status.Code(err) == codes.PermissionDenied:
		o.out <- e
	}
}

// difference gives what is in a and not in b.
func difference(a, b []SVID) []SVID {
	return slices.DeleteFunc(slices.Clone(a), func(s SVID) bool { return slices.Contains(b, s) })
}

// read notes the SVIDs of a message. One that cannot be read has no serial, and
// so is on nobody's record.
func (o *observer) read(message *workload.X509SVIDResponse) []SVID {
	var list []SVID
	var usable []*identity
	defer func() { o.pool.put(usable) }()
	for _, each := range message.Svids {
		svid, err := x509svid.ParseRaw(each.X509Svid, each.X509SvidKey)
		if err != nil || svid.ID.String() != each.SpiffeId {
			list = append(list, SVID{ID: each.SpiffeId, Serial: "unreadable: " + fmt.Sprint(err)})
			continue
		}
		anchors, err := x509.ParseCertificates(each.Bundle)
		if err == nil {
			usable = append(usable, &identity{svidOf(svid.Certificates[0], each.SpiffeId), svid,
				x509bundle.FromX509Authorities(svid.ID.TrustDomain(), anchors)})
		}
		list = append(list, svidOf(svid.Certificates[0], each.SpiffeId))
	}
	return list
}

// identity is an SVID that can be used.
type identity struct {
	noted  SVID
	svid   *x509svid.SVID
	bundle *x509bundle.Bundle
}

// pool keeps what was served: now, and for some time also when the agent has
// taken it back, as a thief would.
type pool struct {
	mu   sync.Mutex
	now  []*identity
	once []*identity
}

const poolSize = 40

// put takes in what one message says.
func (p *pool) put(now []*identity) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = now
	for _, id := range now {
		if !slices.ContainsFunc(p.once, func(old *identity) bool { return old.noted.Serial == id.noted.Serial }) {
			p.once = append(p.once, id)
		}
	}
	p.once = p.once[max(0, len(p.once)-poolSize):]
}

// any gives one of them, as likely of now as of once; nil if there is none.
func (p *pool) any(rng *rand.Rand) *identity {
	p.mu.Lock()
	defer p.mu.Unlock()
	from := p.once
	if len(p.now) > 0 && rng.IntN(2) == 0 {
		from = p.now
	}
	if len(from) == 0 {
		return nil
	}
	return from[rng.IntN(len(from))]
}

// fetchTokens asks for JWT-SVIDs: of all identities, or of one that this user
// has or had.
func (o *observer) fetchTokens(ctx context.Context, rng *rand.Rand) {
	client, closeConn, err := o.dial()
	if err != nil {
		return // follow says so
	}
	defer closeConn()
	for pause(ctx, rng, 500*time.Millisecond) {
		e := Event{Op: Fetch, UID: o.UID}
		req := &workload.JWTSVIDRequest{Audience: []string{fmt.Sprintf("audience-%d", rng.IntN(20))}}
		if id := o.pool.any(rng); id != nil && rng.IntN(2) == 0 {
			req.SpiffeId, e.Shown = id.noted.ID, &id.noted
		}
		e.Start = time.Now()
		answer, err := client.FetchJWTSVID(outgoing(ctx), req)
		e.End, e.Outcome = time.Now(), OK
		if err != nil {
			e.Outcome, e.Detail = Refused, status.Code(err).String()
		}
		for _, each := range answer.GetSvids() {
			e.Tokens = append(e.Tokens, readToken(each.Svid, each.SpiffeId))
		}
		o.out <- e
	}
}

func readToken(token, id string) SVID {
	signed, _, _ := cutLast(token, ".")
	_, payload, _ := strings.Cut(signed, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	var claims struct {
		ID      string `json:"jti"`
		Subject string `json:"sub"`
		Expiry  int64  `json:"exp"`
	}
	err = errors.Join(err, json.Unmarshal(raw, &claims))
	if err != nil || claims.Subject != id {
		return SVID{ID: id, Serial: "unreadable: " + fmt.Sprint(err)}
	}
	return SVID{Serial: claims.ID, ID: id, Digest: digest([]byte(signed)), NotAfter: time.Unix(claims.Expiry, 0)}
}

func cutLast(text, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(text, sep); i >= 0 {
		return text[:i], text[i+len(sep):], true
	}
	return text, "", false
}

// callProxy sends requests with identities that this user has or had.
func (o *observer) callProxy(ctx context.Context, rng *rand.Rand) {
	server, err := spiffeid.FromString(o.ProxyID)
	if err != nil {
		return
	}
	for pause(ctx, rng, 400*time.Millisecond) {
		if id := o.pool.any(rng); id != nil && time.Now().Before(id.noted.NotAfter) {
			o.out <- o.call(ctx, id, server)
		}
	}
}

func (o *observer) call(ctx context.Context, id *identity, server spiffeid.ID) Event {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: tlsconfig.MTLSClientConfig(id.svid, id.bundle, tlsconfig.AuthorizeID(server)), DisableKeepAlives: true,
	}}
	e := Event{Op: Call, Start: time.Now(), UID: o.UID, Outcome: Refused, Shown: &id.noted}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.ProxyURL+"/echo", nil)
	if err == nil {
		var resp *http.Response
		if resp, err = client.Do(req); err == nil {
			resp.Body.Close()
			e.Detail = resp.Status
			if resp.StatusCode == http.StatusOK {
				e.Outcome = OK
			}
		}
	}
	if err != nil {
		e.Detail = err.Error()
	}
	e.End = time.Now()
	return e
}
