package otlp_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport/sallyport/cmd/sallyport/internal/otlp"
	auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"
)

func TestEndpoint(t *testing.T) {
	for _, tt := range []struct{ protocol, url, want string }{
		{otlp.GRPC, "https://collector.example", "https://collector.example:4317"},
		{otlp.GRPC, "https://collector.example:443/", "https://collector.example:443/"},
		{otlp.GRPC, "http://localhost", "http://localhost:4317"},
		{otlp.GRPC, "http://[::1]:5", "http://[::1]:5"},
		{otlp.HTTP, "https://collector.example", "https://collector.example:4318/v1/logs"},
		{otlp.HTTP, "https://collector.example/otlp/v1/logs", "https://collector.example:4318/otlp/v1/logs"},
		{otlp.HTTP, "http://127.9.9.9:80", "http://127.9.9.9:80/v1/logs"},
		{otlp.GRPC, "https://collector.example/v1/logs", "error: path"},
		{otlp.HTTP, "http://collector.example", "error: http to collector.example would send the audit log in the clear"},
		{otlp.HTTP, "http://localhost.evil.example", "error: http to"},
		{otlp.HTTP, "http://127.0.0.1.evil.example", "error: http to"},
		{otlp.HTTP, "http://0.0.0.0", "error: http to"},
		{otlp.HTTP, "https://user:hush@collector.example", "error: user, password"},
		{otlp.HTTP, "https://collector.example?key=hush", "error: user, password, query"},
		{otlp.HTTP, "https://collector.example:hush", "error: no URL"},
		{otlp.HTTP, "collector.example:4318", "error: names no host"},
		{otlp.HTTP, "ftp://collector.example", "error: scheme"},
		{"udp", "https://collector.example", "error: protocol"},
	} {
		got, err := otlp.ParseEndpoint(tt.protocol, tt.url)
		if err != nil {
			got = "error: " + err.Error()
		}
		if strings.HasPrefix(tt.want, "error: ") && !strings.HasPrefix(got, tt.want) || !strings.HasPrefix(tt.want, "error: ") && got != tt.want || strings.Contains(got, "hush") {
			t.Errorf("%s of %s: %s, want %s", tt.url, tt.protocol, got, tt.want)
		}
	}
}

func TestHeaderFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, value string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(value), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, tt := range []struct{ name, flag, want string }{
		{"good", "Authorization=" + write("good", "Bearer hush\n", 0o600), ""},
		{"value on the command line", "authorization", "must be NAME=FILE"},
		{"no file", "authorization=", "must be NAME=FILE"},
		{"no name", "=" + write("noname", "hush", 0o600), "no name of a header"},
		{"of the protocol", "content-type=x", "of the protocol itself"},
		{"of gRPC", "grpc-timeout=x", "of the protocol itself"},
		{"missing", "x=" + filepath.Join(dir, "missing"), "no such file"},
		{"for all to read", "x=" + write("open", "hush", 0o644), "others can read it; chmod 600"},
		{"empty", "x=" + write("empty", "\n", 0o600), "holds no value"},
		{"two lines", "x=" + write("two", "hush\r\nother: 1", 0o600), "holds no value"},
		{"long", "x=" + write("long", strings.Repeat("h", 20<<10), 0o600), "longer than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, err := otlp.ParseHeaderFile(tt.flag)
			if err == nil {
				var s *otlp.Sender
				s, err = otlp.NewSender(otlp.Config{
					URL: "http://127.0.0.1", Protocol: otlp.HTTP, Headers: []otlp.HeaderFile{h}, Body: func(*auditv1.Record) string { return "" },
				})
				if err == nil {
					_ = s.Close()
				}
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hush")) {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}
