// Command health answers gRPC health checks, and over HTTP it is told to answer otherwise: what Kubernetes' own tests probe.
package main

import (
	"os"

	check "k8s.io/kubernetes/test/images/agnhost/grpc-health-checking"
)

func main() {
	if check.CmdGrpcHealthChecking.Execute() != nil {
		os.Exit(1)
	}
}
