package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// Runs the command that a URL of Exec stands for, as kubectl and crictl do, and moves the bytes of one direction.
func command(kind, target, direction, bytes string) error {
	count, err := strconv.ParseInt(bytes, 10, 64)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := stream(kind, target, direction, count); err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	fmt.Printf("%d bytes, %.0f MB/s\n", count, float64(count)/seconds/1e6)
	return nil
}

func stream(kind, target, direction string, count int64) error {
	executor, err := executor(kind, target)
	if err != nil {
		return err
	}
	counter, errors := &counter{}, &bytes.Buffer{}
	options := remotecommand.StreamOptions{Stdout: counter, Stderr: errors}
	if direction == "in" {
		options.Stdin = io.LimitReader(zeroes{}, count)
	}
	if err := executor.StreamWithContext(context.Background(), options); err != nil {
		return fmt.Errorf("%w: %s", err, errors)
	}
	if direction == "out" && counter.count != count {
		return fmt.Errorf("%d bytes of %d", counter.count, count)
	}
	return nil
}

func executor(kind, target string) (remotecommand.Executor, error) {
	address, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	config := config(address)
	if kind == "spdy" {
		return remotecommand.NewSPDYExecutor(config, "POST", address)
	}
	return remotecommand.NewWebSocketExecutor(config, "GET", target)
}

// Whoever the server is: its certificate is of its own making.
func config(address *url.URL) *rest.Config {
	return &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: address.Scheme == "https"}}
}

type counter struct{ count int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.count += int64(len(p))
	return len(p), nil
}
