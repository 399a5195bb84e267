package workloadapi

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/identity"
)

// grpcCodes maps our codes to those of gRPC.
var grpcCodes = map[identity.Code]codes.Code{
	identity.Invalid:         codes.InvalidArgument,
	identity.Unauthenticated: codes.Unauthenticated,
	identity.Denied:          codes.PermissionDenied,
	identity.NotFound:        codes.NotFound,
	identity.Conflict:        codes.AlreadyExists,
	identity.TooLarge:        codes.InvalidArgument,
	identity.Unsupported:     codes.Unimplemented,
	identity.LimitExceeded:   codes.FailedPrecondition,
	identity.RateLimited:     codes.ResourceExhausted,
	identity.Unavailable:     codes.Unavailable,
	identity.Internal:        codes.Internal,
}

// statusOf gives the gRPC status of what a handler returned. The cause of an
// error of ours is for the log and stays out of it.
func statusOf(err error) *status.Status {
	var ours *identity.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours):
		code, ok := grpcCodes[ours.Code]
		if !ok {
			code = codes.Internal
		}
		return status.New(code, identity.MessageOf(err))
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the caller ended the request")
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, "the request's deadline passed")
	}
	if st, ok := status.FromError(err); ok {
		return st
	}
	return status.New(codes.Internal, identity.MessageOf(err))
}
