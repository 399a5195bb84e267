package cli_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/authsec-ai/icp/cmd/icp/internal/cli"
)

// fakeAgent serves the Workload API on a socket: one identity per value that
// comes through serials.
type fakeAgent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	t       *testing.T
	socket  string
	key     *ecdsa.PrivateKey
	serials chan int64
	refuse  error // answers everything, unless nil
}

func newFakeAgent(t *testing.T) *fakeAgent {
	t.Helper()
	dir, err := os.MkdirTemp("", "icp") // t.TempDir may be too long for a socket
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	f := &fakeAgent{t: t, socket: filepath.Join(dir, "agent.sock"), key: key, serials: make(chan int64, 8)}
	listener, err := net.Listen("unix", f.socket)
	check(t, err)
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, f)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); check(t, <-done) })
	return f
}

// admit checks the header that every caller must send.
func (f *fakeAgent) admit(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if got := md.Get("workload.spiffe.io"); len(got) != 1 || got[0] != "true" {
		return status.Error(codes.InvalidArgument, "the security header is missing")
	}
	return f.refuse
}

func (f *fakeAgent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if err := f.admit(stream.Context()); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case serial := <-f.serials:
			if err := stream.Send(f.identity(serial)); err != nil {
				return err
			}
		}
	}
}

func (f *fakeAgent) identity(serial int64) *workload.X509SVIDResponse {
	anchor := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: "acme.example"}}}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		URIs: []*url.URL{{Scheme: "spiffe", Host: "acme.example", Path: "/web"}}}
	anchorDER, err := x509.CreateCertificate(rand.Reader, anchor, anchor, f.key.Public(), f.key)
	check(f.t, err)
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, anchor, f.key.Public(), f.key)
	check(f.t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(f.key)
	check(f.t, err)
	return &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{SpiffeId: web, X509Svid: leafDER, X509SvidKey: keyDER, Bundle: anchorDER, Hint: "main"}}}
}

func (f *fakeAgent) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if err := f.admit(ctx); err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: f.key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	check(f.t, err)
	token, err := jwt.Signed(signer).Claims(jwt.Claims{Subject: web, Audience: r.Audience, Expiry: jwt.NewNumericDate(time.Now().Add(time.Minute))}).Serialize()
	check(f.t, err)
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: web, Svid: token}}}, nil
}

func (f *fakeAgent) ValidateJWTSVID(ctx context.Context, r *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if err := f.admit(ctx); err != nil {
		return nil, err
	}
	token, err := jwt.ParseSigned(r.Svid, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "not a token")
	}
	var claims map[string]any
	if err := token.Claims(f.key.Public(), &claims); err != nil {
		return nil, status.Error(codes.InvalidArgument, "the signature is wrong")
	}
	list, err := structpb.NewStruct(claims)
	check(f.t, err)
	return &workload.ValidateJWTSVIDResponse{SpiffeId: web, Claims: list}, nil
}

func TestFetchX509(t *testing.T) {
	for name, prefix := range map[string]string{"address": "unix://", "bare path": ""} {
		t.Run(name, func(t *testing.T) {
			f := newFakeAgent(t)
			f.serials <- 0xab
			icp(t, map[string]string{"SPIFFE_ENDPOINT_SOCKET": prefix + f.socket}, "", "api", "fetch", "x509").ok().says(web, "ab", "main")
		})
	}
	t.Run("write", func(t *testing.T) {
		f := newFakeAgent(t)
		folder := filepath.Join(t.TempDir(), "identity")
		f.serials <- 7
		r := icp(t, nil, "", "api", "fetch", "x509", "--socket", f.socket, "--write", folder, "--output", "json").ok()
		if strings.Contains(r.stdout+r.stderr, "PRIVATE") {
			t.Error("a key was printed")
		}
		for name, text := range map[string]string{"svid.0.pem": "CERTIFICATE", "svid.0.key": "PRIVATE KEY", "bundle.0.pem": "CERTIFICATE"} {
			raw, err := os.ReadFile(filepath.Join(folder, name))
			check(t, err)
			info, err := os.Stat(filepath.Join(folder, name))
			check(t, err)
			if !strings.Contains(string(raw), text) || info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %v and holds %s", name, info.Mode(), raw)
			}
		}
	})
}

func TestJWT(t *testing.T) {
	f := newFakeAgent(t)
	at := []string{"--socket", f.socket}
	fetched := icp(t, nil, "", append(at, "api", "fetch", "jwt", "--audience", "orders", "--audience", "bills")...).ok()
	if strings.Count(fetched.stdout, ".") != 2 || strings.Count(fetched.stdout, "\n") != 1 || !strings.Contains(fetched.stderr, web) {
		t.Errorf("fetched %q, %q", fetched.stdout, fetched.stderr)
	}
	var claims struct {
		SPIFFEID string         `json:"spiffe_id"`
		Claims   map[string]any `json:"claims"`
	}
	icp(t, nil, fetched.stdout, append(at, "api", "validate", "jwt", "--audience", "orders")...).ok().decode(&claims)
	if claims.SPIFFEID != web || claims.Claims["sub"] != web {
		t.Errorf("claims are %+v", claims)
	}
	icp(t, nil, "x.y.z", append(at, "api", "validate", "jwt", "--audience", "orders")...).fails(1, "the agent refuses: not a token")
	icp(t, nil, "", append(at, "api", "fetch", "jwt")...).fails(2, "--audience is needed")
	icp(t, nil, "", append(at, "api", "fetch", "jwt", "--audience", "a", "--spiffe-id", "x")...).fails(1, "is not a SPIFFE ID")
}

func TestAgentRefusesOrIsAway(t *testing.T) {
	f := newFakeAgent(t)
	f.refuse = status.Error(codes.PermissionDenied, "no identity issued")
	icp(t, nil, "", "api", "fetch", "x509", "--socket", f.socket).fails(4, "the agent has no identity for this process (no identity issued); register it")
	icp(t, nil, "", "api", "fetch", "x509", "--socket", f.socket+".absent").fails(6, "is it running?")
	icp(t, nil, "", "api", "fetch", "x509", "--socket", "http://x").fails(1, "write it as unix:///path")
	silent := newFakeAgent(t)
	icp(t, nil, "", "api", "fetch", "x509", "--socket", silent.socket, "--timeout", "50ms").fails(6, "no answer from the agent on")
}

func TestWatch(t *testing.T) {
	f := newFakeAgent(t)
	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	read, write := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- cli.Main(ctx, cli.Env{Args: []string{"api", "watch", "--socket", f.socket, "-o", "json"}, Getenv: os.Getenv,
			Stdin: strings.NewReader(""), Stdout: write, Stderr: io.Discard})
		write.Close()
	}()
	updates := json.NewDecoder(read)
	for _, serial := range []int64{0x10, 0x20, 0x30} {
		f.serials <- serial
		var got struct{ Serial string }
		check(t, updates.Decode(&got))
		if want := big.NewInt(serial).Text(16); got.Serial != want {
			t.Errorf("saw serial %s, want %s", got.Serial, want)
		}
	}
	interrupt()
	if got := <-code; got != 0 {
		t.Errorf("an interrupted watch exits with %d", got)
	}
}
