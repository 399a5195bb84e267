package conform

import (
	"context"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
)

func notExtended(ctx context.Context, p *probe) (string, error) {
	seen, err := p.reflection(ctx)
	switch {
	case errors.Is(err, socket.ErrNoReflection):
		return "", notSeen(err.Error() + ", so the service's description can't be compared")
	case err != nil:
		return "", err
	}
	published := describe(protodesc.ToFileDescriptorProto(workload.File_workload_proto))
	found := map[string]string{}
	for _, file := range seen.Files {
		for name, what := range describe(file) {
			found[name] = what
		}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("no file of the descriptors has no package, as %s must", socket.WorkloadAPI)
	}
	return compare(published, found)
}

// describe lists the methods of the service and the fields of its messages, as
// name → what it is. A file with a package describes nothing of the Workload
// API.
func describe(file *descriptorpb.FileDescriptorProto) map[string]string {
	parts := map[string]string{}
	if file.GetPackage() != "" {
		return parts
	}
	for _, service := range file.GetService() {
		for _, method := range service.GetMethod() {
			parts["rpc "+service.GetName()+"."+method.GetName()] = fmt.Sprintf("%s → %s, streams %t → %t",
				method.GetInputType(), method.GetOutputType(), method.GetClientStreaming(), method.GetServerStreaming())
		}
	}
	for _, message := range file.GetMessageType() {
		parts["message "+message.GetName()] = "a message"
		for _, field := range message.GetField() {
			parts[fmt.Sprintf("field %s.%s", message.GetName(), field.GetName())] = fmt.Sprintf("number %d, %s %s %s",
				field.GetNumber(), field.GetLabel(), field.GetType(), field.GetTypeName())
		}
	}
	return parts
}

// compare refuses additions and differences. What is missing may be of a
// profile that the endpoint predates.
func compare(published, found map[string]string) (string, error) {
	for name, what := range found {
		want, known := published[name]
		if !known {
			return "", fmt.Errorf("%s was added", name)
		}
		if what != want {
			return "", fmt.Errorf("%s is %s, published as %s", name, what, want)
		}
	}
	return fmt.Sprintf("%d of %d published parts, and no other", len(found), len(published)), nil
}
