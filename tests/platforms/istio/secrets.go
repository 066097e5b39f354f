package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tls "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"istio.io/istio/pkg/model"
	"istio.io/istio/pkg/test"
)

// secrets hands each proxy the certificate of its service account: NAMESPACE.ACCOUNT.crt and .key, and
// root.crt, in the folder identities.
type secrets struct {
	secret.UnimplementedSecretDiscoveryServiceServer
	folder string
}

func serveSecrets(t test.Failer, folder string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	secret.RegisterSecretDiscoveryServiceServer(server, &secrets{folder: filepath.Join(folder, "identities")})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

func (it *secrets) StreamSecrets(stream secret.SecretDiscoveryService_StreamSecretsServer) error {
	var account string
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		if node := request.GetNode(); node != nil {
			account = accountOf(node)
		}
		if request.GetErrorDetail() != nil {
			fmt.Printf("secret refused: %s %v: %s\n", account, request.ResourceNames, request.ErrorDetail.Message)
		}
		if request.GetResponseNonce() != "" {
			continue // It has what it asked for.
		}
		answer := &discovery.DiscoveryResponse{TypeUrl: request.TypeUrl, VersionInfo: "1", Nonce: "1"}
		for _, name := range request.ResourceNames {
			found, err := it.named(name, account)
			if err != nil {
				return err
			}
			answer.Resources = append(answer.Resources, found)
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

func accountOf(node *core.Node) string {
	fields := node.GetMetadata().GetFields()
	return fields["NAMESPACE"].GetStringValue() + "." + fields["SERVICE_ACCOUNT"].GetStringValue()
}

func (it *secrets) named(name, account string) (*anypb.Any, error) {
	found := &tls.Secret{Name: name}
	switch name {
	case model.SDSDefaultResourceName:
		found.Type = &tls.Secret_TlsCertificate{TlsCertificate: &tls.TlsCertificate{
			CertificateChain: it.file(account + ".crt"), PrivateKey: it.file(account + ".key"),
		}}
	case model.SDSRootResourceName:
		found.Type = &tls.Secret_ValidationContext{ValidationContext: &tls.CertificateValidationContext{
			TrustedCa: it.file("root.crt"),
		}}
	default:
		return nil, status.Errorf(codes.NotFound, "there is no secret %s", name)
	}
	return anypb.New(found)
}

func (it *secrets) file(name string) *core.DataSource {
	text, err := os.ReadFile(filepath.Join(it.folder, name))
	if err != nil {
		fmt.Println(err)
	}
	return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: text}}
}

func (it *secrets) FetchSecrets(context.Context, *discovery.DiscoveryRequest) (*discovery.DiscoveryResponse, error) {
	return nil, status.Error(codes.Unimplemented, "ask by a stream")
}
