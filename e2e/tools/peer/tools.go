//go:build tools

// Package peer holds the version of the runtime that hack/bench compares davit with.
package peer

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
)
