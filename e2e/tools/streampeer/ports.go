package main

import (
	"net/http"
	"net/url"

	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// Forwards ports through any server that a URL is of, as kubectl does through the API server.
func ports(kind, target string, ports []string) error {
	address, err := url.Parse(target)
	if err != nil {
		return err
	}
	dialer, err := dialerTo(kind, address)
	if err != nil {
		return err
	}
	return forward(dialer, ports)
}

func dialerTo(kind string, address *url.URL) (httpstream.Dialer, error) {
	config := config(address)
	if kind == "tunnel" {
		return portforward.NewSPDYOverWebsocketDialerForStreaming(address, config)
	}
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, "POST", address), nil
}
