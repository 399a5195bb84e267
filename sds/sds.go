// Package sds serves Envoy's Secret Discovery Service, version 3: an Envoy gets
// its certificate and what to trust over the socket that attests it, and gets
// them again at each rotation.
//
// The package knows nothing of who attests and where SVIDs come from: it takes
// an Attestor. What the client states about itself (its node id) is never a
// reason to hand out anything.
//
// Names that a client may ask for:
//
//	default            the first identity (certificate chain and key)
//	spiffe://td/path   that identity, if it is the caller's
//	ROOTCA             the bundle of the first identity's trust domain
//	spiffe://td        the bundle of that trust domain, own or federated
//	ALL                every bundle, each for its own trust domain only
//	(none)             every identity and every bundle by its ID
//
// An ID in a trust domain of the caller's that is not issued yet is held: no
// answer until it is there. A name that can never be the caller's is
// InvalidArgument.
package sds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Attestor says who is at the other end of a stream.
type Attestor interface {
	// Watch attests the caller of ctx and follows what it may have.
	Watch(ctx context.Context) (Subscription, error)
}

// Subscription follows what one caller may have.
type Subscription interface {
	// Changed gives a channel that is closed, or receives, at the next change.
	// It is taken before Update.
	Changed() <-chan struct{}
	// Update gives the complete state, or the reason why there is none. It is
	// called right before each answer. An *identity.Error with Code Unavailable
	// keeps an open stream waiting; any other error ends it.
	Update(ctx context.Context) (*Update, error)
	// Close ends the subscription.
	Close()
}

// Update is all that one caller may have.
type Update struct {
	SVIDs   []*x509svid.SVID     // default first, never empty
	Bundles []*x509bundle.Bundle // of own and federated trust domains
}

// Config says what a Server works with.
type Config struct {
	Attestor Attestor
	Log      *slog.Logger
	Meter    metric.Meter

	// DefaultName, BundleName and AllName replace the names "default",
	// "ROOTCA" and "ALL".
	DefaultName, BundleName, AllName string
	// RefuseUnissued answers InvalidArgument for an ID that is not issued yet,
	// as other SPIFFE agents do, where we hold the answer.
	RefuseUnissued bool
	// PlainValidation gives every Envoy bundles as a plain list of CAs, for
	// builds without the SPIFFE validator. Node metadata
	// "disable_spiffe_cert_validation" does the same for one Envoy.
	PlainValidation bool
}

// Server is the Secret Discovery Service.
type Server struct {
	secretv3.UnimplementedSecretDiscoveryServiceServer

	attestor       Attestor
	log            *slog.Logger
	names          names
	refuseUnissued bool
	plain          bool
	answers, nacks metric.Int64Counter
}

// names are the special names.
type names struct{ identity, bundle, all string }

// New gives a Server for cfg.
func New(cfg Config) (*Server, error) {
	if cfg.Attestor == nil || cfg.Log == nil || cfg.Meter == nil {
		return nil, errors.New("SDS: Attestor, Log and Meter are required")
	}
	s := &Server{
		attestor:       cfg.Attestor,
		log:            cfg.Log,
		refuseUnissued: cfg.RefuseUnissued,
		plain:          cfg.PlainValidation,
		names: names{
			identity: orDefault(cfg.DefaultName, "default"),
			bundle:   orDefault(cfg.BundleName, "ROOTCA"),
			all:      orDefault(cfg.AllName, "ALL"),
		},
	}
	if s.names.identity == s.names.bundle || s.names.identity == s.names.all || s.names.bundle == s.names.all {
		return nil, fmt.Errorf("SDS: two of the special names %+v are the same", s.names)
	}
	var err error
	if s.answers, err = cfg.Meter.Int64Counter("icp_sds_answers",
		metric.WithDescription("Answers sent to Envoys")); err != nil {
		return nil, fmt.Errorf("SDS: make the answer counter: %w", err)
	}
	if s.nacks, err = cfg.Meter.Int64Counter("icp_sds_nacks",
		metric.WithDescription("Answers that Envoys refused")); err != nil {
		return nil, fmt.Errorf("SDS: make the NACK counter: %w", err)
	}
	return s, nil
}

func orDefault(name, fallback string) string {
	if name == "" {
		return fallback
	}
	return name
}

// Register adds the service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	secretv3.RegisterSecretDiscoveryServiceServer(r, s)
}

// Descriptor describes the service, for whoever shows it by reflection.
func Descriptor() protoreflect.ServiceDescriptor {
	return secretv3.File_envoy_service_secret_v3_sds_proto.Services().ByName("SecretDiscoveryService")
}
