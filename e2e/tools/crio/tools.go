//go:build tools

// Package crio holds the version of another runtime that hack/bench compares davit with.
package crio

import _ "github.com/cri-o/cri-o/cmd/crio"
