package health

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// APIServer counts what becomes of requests to the apiserver. Wrap a client's
// transport with it.
type APIServer struct {
	requests    *prometheus.CounterVec
	disconnects *prometheus.CounterVec
}

// NewAPIServer returns counters at zero.
func NewAPIServer() *APIServer {
	return &APIServer{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "vrkube", Name: "apiserver_requests_total", Help: "Requests to the apiserver by verb (get, watch, write) and HTTP status; status 0: no answer.",
		}, []string{"verb", "code"}),
		disconnects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "vrkube", Name: "apiserver_disconnects_total",
			Help: "Broken connections to the apiserver by what broke: connect (no answer to a request), watch (a stream of events that ended in an error). Forwarding goes on meanwhile.",
		}, []string{"what"}),
	}
}

// Describe implements prometheus.Collector.
func (a *APIServer) Describe(ch chan<- *prometheus.Desc) {
	a.requests.Describe(ch)
	a.disconnects.Describe(ch)
}

// Collect implements prometheus.Collector.
func (a *APIServer) Collect(ch chan<- prometheus.Metric) {
	a.requests.Collect(ch)
	a.disconnects.Collect(ch)
}

// Wrap returns a transport that counts what goes through next.
func (a *APIServer) Wrap(next http.RoundTripper) http.RoundTripper { return counted{a, next} }

// counted is a transport whose requests are counted.
type counted struct {
	*APIServer
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	verb := "write"
	if r.Method == http.MethodGet {
		if verb = "get"; r.URL.Query().Get("watch") != "" {
			verb = "watch"
		}
	}
	answer, err := c.next.RoundTrip(r)
	if err != nil {
		c.requests.WithLabelValues(verb, "0").Inc()
		if r.Context().Err() == nil { // else we ended it
			c.disconnects.WithLabelValues("connect").Inc()
		}
		return answer, err
	}
	c.requests.WithLabelValues(verb, strconv.Itoa(answer.StatusCode)).Inc()
	if verb == "watch" {
		answer.Body = &watched{ReadCloser: answer.Body, request: r, counts: c.APIServer}
	}
	return answer, nil
}

// watched is the body of a watch. One goroutine reads it, any closes it.
type watched struct {
	io.ReadCloser
	request *http.Request
	counts  *APIServer
	over    atomic.Bool // closed by us, or its end is counted
}

// Read implements io.Reader.
func (w *watched) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	if err != nil && !errors.Is(err, io.EOF) && w.request.Context().Err() == nil && !w.over.Swap(true) {
		w.counts.disconnects.WithLabelValues("watch").Inc()
	}
	return n, err
}

// Close implements io.Closer.
func (w *watched) Close() error {
	w.over.Store(true)
	return w.ReadCloser.Close()
}
