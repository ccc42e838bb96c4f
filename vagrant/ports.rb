require "open3"
require "socket"

# Finds out, before the VM boots, whether the laptop's ports are free.
module Ports
  module_function

  # Raises Settings::Error for the first port on the laptop that is taken.
  def check(settings)
    Settings.forwards(settings).each do |forward|
      port = forward[:host]
      another = "choose another port: write #{forward[:key]} into settings.local.yml (settings.yml shows how)."
      TCPServer.new(forward[:ip], port).close
    rescue Errno::EADDRINUSE
      raise Settings::Error,
            "Port #{port} of this computer is already in use#{holder(port)}. Stop that program, or #{another}"
    rescue Errno::EADDRNOTAVAIL
      raise Settings::Error,
            "#{forward[:ip]} is no address of this computer. Change host_ip in settings.local.yml."
    rescue SystemCallError => e
      raise Settings::Error, "Port #{port} of this computer cannot be used (#{e.message}): #{another}"
    end
  end

  # " by NAME (process N)" where the system tells, else nothing.
  def holder(port)
    { %W[lsof -nP -iTCP:#{port} -sTCP:LISTEN -Fpc] => /^p(?<pid>\d+)\nc(?<name>.+)$/,
      ["ss", "-Hltnp", "sport = :#{port}"] => /users:\(\("(?<name>[^"]+)",pid=(?<pid>\d+)/ }.each do |command, line|
      output, = Open3.capture2e(*command)
      found = line.match(output) and return " by #{found[:name]} (process #{found[:pid]})"
    rescue SystemCallError
      next # the tool is not installed
    end
    ""
  end
end
