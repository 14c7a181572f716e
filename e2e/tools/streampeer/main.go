// Command streampeer is what kubectl and crictl are made of, as far as streams go: the Kubernetes client libraries, on a connection that
// has been upgraded already. davit's tests run it against their own sessions.
//
//	streampeer spdy|tunnel ADDRESS forward PORT...   forwards the ports with client-go until its input ends; prints the local ones
//	streampeer spdy|tunnel ADDRESS down BYTES        reads so many bytes from a stream of type "down"
//	streampeer spdy|tunnel ADDRESS up BYTES          writes so many to one of type "up", and waits until they have been read
//	streampeer ports spdy|tunnel URL PORT...         forwards ports like "forward", through the server of a URL
//	streampeer exec spdy|websocket URL in|out BYTES  runs the command of a URL and moves its input or its output
//	streampeer limit spdy|websocket in|out BYTES     the same with a peer that costs next to nothing: the speed of client-go itself
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// The period that client-go uses.
const pings = 5 * time.Second

type dialer struct{ kind, address string }

func (d dialer) Dial(protocols ...string) (httpstream.Connection, string, error) {
	conn, err := net.Dial("tcp", d.address)
	if err != nil {
		return nil, "", err
	}
	if d.kind == "tunnel" {
		target := &url.URL{Scheme: "ws", Host: d.address, Path: "/"}
		header := http.Header{"Sec-Websocket-Protocol": {"SPDY/3.1+portforward.k8s.io"}}
		socket, _, err := websocket.NewClient(conn, target, header, 32*1024, 32*1024)
		if err != nil {
			return nil, "", err
		}
		conn = portforward.NewTunnelingConnection("client", socket)
	}
	session, err := spdy.NewClientConnectionWithPings(conn, pings)
	return session, "portforward.k8s.io", err
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 4 && args[0] == "ports":
		return ports(args[1], args[2], args[3:])
	case len(args) == 5 && args[0] == "exec":
		return command(args[1], args[2], args[3], args[4])
	case len(args) == 4 && args[0] == "limit":
		return limit(args[1], args[2], args[3])
	}
	if len(args) < 4 {
		return fmt.Errorf("usage: streampeer spdy|tunnel ADDRESS forward|up|down PORT...|BYTES")
	}
	d := dialer{args[0], args[1]}
	if args[2] == "forward" {
		return forward(d, args[3:])
	}
	count, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		return err
	}
	return move(d, args[2], count)
}

func forward(d httpstream.Dialer, ports []string) error {
	specs := make([]string, len(ports))
	for i, port := range ports {
		specs[i] = ":" + port
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forwarder, err := portforward.NewForStreaming(d, specs, stop, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	go func() {
		<-ready
		locals, err := forwarder.GetPorts()
		for _, port := range locals {
			fmt.Println(port.Local)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	return forwarder.ForwardPorts()
}

func move(d dialer, kind string, count int64) error {
	session, _, err := d.Dial()
	if err != nil {
		return err
	}
	defer session.Close()
	headers := http.Header{}
	headers.Set("streamtype", kind)
	headers.Set("bytes", strconv.FormatInt(count, 10))
	stream, err := session.CreateStream(headers)
	if err != nil {
		return err
	}
	start := time.Now()
	var moved int64
	if kind == "up" {
		// As client-go's io.Copy does it.
		moved, err = io.CopyBuffer(struct{ io.Writer }{stream}, io.LimitReader(zeroes{}, count), make([]byte, 32*1024))
		if err == nil {
			err = stream.Close()
		}
		if err == nil {
			_, err = io.Copy(io.Discard, stream)
		}
	} else {
		moved, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, stream, make([]byte, 32*1024))
	}
	if err != nil {
		return err
	}
	if moved != count {
		return fmt.Errorf("%d bytes of %d", moved, count)
	}
	seconds := time.Since(start).Seconds()
	fmt.Printf("%d bytes, %.0f MB/s\n", moved, float64(moved)/seconds/1e6)
	return nil
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }
