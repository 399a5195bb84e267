package workloadapi

import (
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// serviceList is what reflection lists.
type serviceList map[string]grpc.ServiceInfo

// GetServiceInfo gives the list.
func (l serviceList) GetServiceInfo() map[string]grpc.ServiceInfo { return l }

// reflected gives the services that reflection lists, and the files that
// describe them. Whatever else is linked into the program stays hidden.
func reflected(guests []protoreflect.ServiceDescriptor) (serviceList, *protoregistry.Files, error) {
	services := append([]protoreflect.ServiceDescriptor{
		workload.File_workload_proto.Services().ByName("SpiffeWorkloadAPI"),
		reflectionv1.File_grpc_reflection_v1_reflection_proto.Services().ByName("ServerReflection"),
		reflectionv1alpha.File_grpc_reflection_v1alpha_reflection_proto.Services().ByName("ServerReflection"),
	}, guests...)
	list, files := serviceList{}, new(protoregistry.Files)
	for _, service := range services {
		list[string(service.FullName())] = grpc.ServiceInfo{}
		if err := addFile(files, service.ParentFile()); err != nil {
			return nil, nil, err
		}
	}
	return list, files, nil
}

// addFile adds a file and all that it imports.
func addFile(files *protoregistry.Files, file protoreflect.FileDescriptor) error {
	if _, err := files.FindFileByPath(file.Path()); err == nil {
		return nil
	}
	imports := file.Imports()
	for i := range imports.Len() {
		if err := addFile(files, imports.Get(i).FileDescriptor); err != nil {
			return err
		}
	}
	if file.IsPlaceholder() {
		return nil
	}
	return files.RegisterFile(file)
}

func (s *Server) registerReflection(r grpc.ServiceRegistrar) {
	options := reflection.ServerOptions{
		Services:           serviceList(s.services),
		DescriptorResolver: s.shown,
		ExtensionResolver:  new(protoregistry.Types),
	}
	reflectionv1.RegisterServerReflectionServer(r, reflection.NewServerV1(options))
	reflectionv1alpha.RegisterServerReflectionServer(r, reflection.NewServer(options))
}
