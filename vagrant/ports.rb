require "open3"
require "socket"

# Finds out, before the VM boots, whether the laptop's ports are free.
module Ports
  module_function

  # Raises Settings::Error for the first port on the laptop that is taken.
  def check(settings)
    Settings.forwards(settings).each do |forward|
      port = forward[:host]
      next if free?(forward[:ip], port)

      raise Settings::Error,
            "Port #{port} of this computer is already in use#{holder(port)}. Stop that program, or choose another " \
            "port: write #{forward[:key]} into settings.local.yml (settings.yml shows how)."
    end
  end

  def free?(address, port)
    TCPServer.new(address, port).close
    true
  rescue Errno::EADDRINUSE, Errno::EACCES
    false
  end

  # " by NAME (process N)" where the system tells, else nothing.
  def holder(port)
    process = { "lsof" => ["-nP", "-iTCP:#{port}", "-sTCP:LISTEN", "-Fpc"],
                "ss" => ["-Hltnp", "sport = :#{port}"],
                "netstat" => ["-ano", "-p", "TCP"] }.lazy.filter_map { |tool, args| find(tool, args, port) }.first
    process ? " by #{process}" : ""
  end

  def find(tool, args, port)
    output, = Open3.capture2e(tool, *args)
    case tool
    when "lsof" then "#{$2} (process #{$1})" if output =~ /^p(\d+)\nc(.+)$/
    when "ss" then "#{$1} (process #{$2})" if output =~ /users:\(\("([^"]+)",pid=(\d+)/
    when "netstat" then "process #{$1}" if output =~ /:#{port}\s+\S+\s+LISTENING\s+(\d+)/
    end
  rescue SystemCallError
    nil # the tool is not installed
  end
end
