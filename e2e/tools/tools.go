//go:build tools

// Package tools holds the versions of the programs written in Go that the tests run; hack/setup builds them.
package tools

import (
	// critest starts it to run in several processes.
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
	// critest is a test program and cannot be imported: this is what it consists of.
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
