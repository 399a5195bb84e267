package conform

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
)

// endpointRows judge how the endpoint takes requests (SPIFFE Workload Endpoint).
func endpointRows() []Row {
	return []Row{
		{ID: "WLEP-02", Level: Must, Wants: "the endpoint speaks gRPC", check: speaksGRPC},
		{ID: "WLEP-05", Level: Must, Wants: "a request without workload.spiffe.io: true is InvalidArgument, whoever sent it", check: wantsHeader},
		{ID: "WLEP-06", Level: Must, Wants: "TLS is not required", check: plaintext},
		{ID: "WLEP-11", Level: Must, Wants: "no credential is asked of the caller", check: noCredential},
		{ID: "WLEP-15", Level: Should, Wants: "a caller without an identity gets PermissionDenied", check: strangerDenied},
		{ID: "WLEP-16", Level: Must, Wants: "the service SpiffeWorkloadAPI is as published, without additions", check: notExtended},
		{ID: "WLEP-17", Level: Must, Wants: "the endpoint exposes the Workload API", check: exposes},
		{ID: "WLEP-18", Level: Should, Wants: "server reflection lists and describes the services", check: reflects},
		{ID: "WLEP-19", Level: Should, Wants: "an unknown method is Unimplemented, and a malformed path is not served", check: unknownRefused},
	}
}

func speaksGRPC(ctx context.Context, p *probe) (string, error) {
	answer, err := p.raw(ctx, "/SpiffeWorkloadAPI/FetchJWTSVID")
	switch {
	case err != nil:
		return "", err
	case answer.Status != "200" || !strings.HasPrefix(answer.ContentType, "application/grpc") || answer.GRPCStatus == "":
		return "", fmt.Errorf("FetchJWTSVID in bare frames gives %s", answer)
	}
	return answer.String(), nil
}

// raw sends a FetchJWTSVID request to any path.
func (p *probe) raw(ctx context.Context, path string) (socket.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	message, err := proto.Marshal(&workload.JWTSVIDRequest{Audience: []string{socket.Audience}})
	if err != nil {
		return socket.Answer{}, fmt.Errorf("encode a request: %w", err)
	}
	return socket.Raw(ctx, p.Address, path, message)
}

// wrongHeader is metadata that must not let a request in.
type wrongHeader struct {
	name  string
	pairs []string // of metadata
	// malformed says that HTTP/2 itself forbids the value, so that the
	// connection may refuse it before the service does.
	malformed bool
}

var wrongHeaders = []wrongHeader{
	{name: "absent"},
	{name: "empty", pairs: []string{socket.HeaderKey, ""}},
	{name: "True", pairs: []string{socket.HeaderKey, "True"}},
	{name: "TRUE", pairs: []string{socket.HeaderKey, "TRUE"}},
	{name: "1", pairs: []string{socket.HeaderKey, "1"}},
	{name: "truex", pairs: []string{socket.HeaderKey, "truex"}},
	{name: "space before true", pairs: []string{socket.HeaderKey, " true"}, malformed: true},
	{name: "true,true", pairs: []string{socket.HeaderKey, "true,true"}},
	{name: "false and true", pairs: []string{socket.HeaderKey, "false", socket.HeaderKey, "true"}},
	{name: "binary", pairs: []string{socket.HeaderKey + "-bin", "true"}},
}

func wantsHeader(ctx context.Context, p *probe) (string, error) {
	token := p.token()
	for _, header := range wrongHeaders {
		for _, method := range socket.Methods(token) {
			code := p.callWith(ctx, header, method)
			if !headerRefused(code, header, method) {
				return "", fmt.Errorf("%s with the header %s gives %s", method.Name, header.name, code)
			}
		}
	}
	seen := fmt.Sprintf("%d wrong headers on %d methods", len(wrongHeaders), len(socket.Methods("")))
	other, err := p.stranger(ctx)
	if errors.Is(err, otherUID) {
		return seen + "; with --other-uid, also from a caller without an identity", nil
	}
	if err != nil {
		return "", err
	}
	for _, method := range socket.Methods("") {
		if code := other.Bare[method.Name].Code; !headerRefused(code, wrongHeader{}, method) {
			return "", fmt.Errorf("%s without the header, from a caller without an identity, gives %s", method.Name, code)
		}
	}
	return seen + ", also from a caller without an identity", nil
}

func (p *probe) callWith(ctx context.Context, header wrongHeader, method socket.Method) codes.Code {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, header.pairs...), p.Timeout)
	defer cancel()
	return status.Code(method.Call(ctx, p.client))
}

// headerRefused accepts InvalidArgument. A method that isn't there at all is
// unknown before its header is looked at.
func headerRefused(code codes.Code, header wrongHeader, method socket.Method) bool {
	switch {
	case code == codes.InvalidArgument:
		return true
	case method.WIT:
		return code == codes.Unimplemented
	}
	return header.malformed && (code == codes.Internal || code == codes.Unavailable)
}

func plaintext(ctx context.Context, p *probe) (string, error) {
	err := p.x509.err
	if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
		return "", fmt.Errorf("without TLS, FetchX509SVID gives %w", err)
	}
	return "a connection without TLS is answered", nil
}

func noCredential(_ context.Context, p *probe) (string, error) {
	if p.x509.err != nil && p.jwt.err != nil {
		return "", fmt.Errorf("without credentials, FetchX509SVID gives %w", p.x509.err)
	}
	return "an identity was given to a request with the header alone", nil
}

func strangerDenied(ctx context.Context, p *probe) (string, error) {
	other, err := p.stranger(ctx)
	if err != nil {
		return "", err
	}
	for _, method := range socket.Methods("") {
		code := other.Proper[method.Name].Code
		refused := code == codes.PermissionDenied || (method.WIT && code == codes.Unimplemented)
		if method.Identity && !refused {
			return "", fmt.Errorf("to a caller without an identity, %s gives %s", method.Name, code)
		}
	}
	return "PermissionDenied from the methods that give identities", nil
}

func exposes(ctx context.Context, p *probe) (string, error) {
	seen, err := p.reflection(ctx)
	if err == nil && !seen.Lists(socket.WorkloadAPI) {
		return "", fmt.Errorf("reflection lists %s, not %s", seen, socket.WorkloadAPI)
	}
	for _, err := range []error{p.x509.err, p.x509Bundles.err, p.jwt.err, p.jwtBundles.err} {
		if code := status.Code(err); code != codes.Unimplemented && code != codes.Unavailable {
			return "its methods answer", nil
		}
	}
	return "", fmt.Errorf("none of its methods answers; FetchX509SVID gives %w", p.x509.err)
}

func (p *probe) reflection(ctx context.Context) (socket.Reflected, error) {
	ctx, cancel := p.proper(ctx)
	defer cancel()
	return socket.Reflect(ctx, p.client)
}

func reflects(ctx context.Context, p *probe) (string, error) {
	seen, err := p.reflection(ctx)
	switch {
	case err != nil:
		return "", err
	case len(seen.Services) == 0:
		return "", errors.New("reflection lists no service")
	}
	return seen.String(), nil
}

// unknownRefused also tries a path without its slash, which some servers let
// past their checks.
func unknownRefused(ctx context.Context, p *probe) (string, error) {
	methods := []string{"/SpiffeWorkloadAPI/NoSuchMethod", "/SpiffeWorkloadAPI/fetchx509svid", "/no.such.Service/FetchX509SVID"}
	for _, method := range methods {
		if code := p.unknown(ctx, method); code != codes.Unimplemented {
			return "", fmt.Errorf("%s gives %s", method, code)
		}
	}
	for _, path := range []string{"SpiffeWorkloadAPI/FetchJWTSVID", "//SpiffeWorkloadAPI/FetchJWTSVID", "/SpiffeWorkloadAPI/FetchJWTSVID/"} {
		answer, err := p.raw(ctx, path)
		if err != nil {
			return "", err
		}
		if served(answer) {
			return "", fmt.Errorf("the path %s gives %s", path, answer)
		}
	}
	return fmt.Sprintf("%s; a path without its slash is not served", strings.Join(methods, ", ")), nil
}

func served(answer socket.Answer) bool {
	refusals := []string{"5", "12"} // NotFound, Unimplemented
	return answer.Refused == "" && answer.Status == "200" && !slices.Contains(refusals, answer.GRPCStatus)
}

func (p *probe) unknown(ctx context.Context, method string) codes.Code {
	ctx, cancel := p.proper(ctx)
	defer cancel()
	return status.Code(p.client.Unknown(ctx, method))
}
